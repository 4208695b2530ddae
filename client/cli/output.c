// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "client/cli/cli.h"

int cli_open(struct cli *cli, size_t buffer_bytes, mr_client **client) {
    mr_client_options o = {.struct_size = sizeof o,
                           .servers = cli->server,
                           .timeout_ms = cli->timeout_ms ? cli->timeout_ms : 1,
                           .buffer_bytes = buffer_bytes};
    mr_error error;
    int code = mr_client_open(&o, client, &error);
    if (code == MR_EINVALID)
        return args_wrong(cli, "--server", "%s", error.text);
    return code == MR_OK ? EXIT_DONE : cli_fail(cli, &error);
}

int cli_client(struct cli *cli, size_t buffer_bytes) {
    return cli_open(cli, buffer_bytes, &cli->client);
}

void cli_close(struct cli *cli) {
    mr_client_close(cli->client, CLI_CLOSE_MS, NULL);
    cli->client = NULL;
}

int exit_code_of(int code) {
    switch (code) {
    case MR_OK:
        return EXIT_DONE;
    case MR_ETIMEOUT:
    case MR_EUNKNOWN:
    case MR_EFORGOTTEN:
        return EXIT_NO_ANSWER;
    default:
        return EXIT_FAILED;
    }
}

json_t *json_error(const mr_error *error) {
    return json_pack("{s:s, s:s*, s:b}", "code", mr_error_name(error->code), "text", error->text, "retryable",
                     error->advice == MR_RETRYABLE);
}

int json_print(json_t *value) {
    char *line = json_dumps(value, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    bool written = line && printf("%s\n", line) >= 0;
    free(line);
    json_decref(value);
    return written ? EXIT_DONE : EXIT_FAILED;
}

int cli_fail(const struct cli *cli, const mr_error *error) {
    const char *text = error->text[0] ? error->text : mr_error_text(error->code);
    fprintf(stderr, "mailroom%s%s: %s\n", cli->command ? " " : "", cli->command ? cli->command->name : "",
            text);
    if (cli->json)
        json_print(json_pack("{s:o}", "error", json_error(error)));
    return exit_code_of(error->code);
}

int cli_done(const struct cli *cli, const char *name, const char *value) {
    return cli->json ? json_print(json_pack("{s:s}", name, value)) : EXIT_DONE;
}

int cli_flush(int code) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    if (errno != EPIPE)
        fprintf(stderr, "mailroom: standard output: %s\n", strerror(errno));
    return code == EXIT_DONE ? EXIT_FAILED : code;
}

static char *base64(const uint8_t *p, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = xmalloc((size + 2) / 3 * 4 + 1), *at = text;
    for (size_t i = 0; i < size; i += 3) {
        uint32_t n = (uint32_t)p[i] << 16;
        n |= i + 1 < size ? (uint32_t)p[i + 1] << 8 : 0;
        n |= i + 2 < size ? p[i + 2] : 0;
        *at++ = digits[n >> 18];
        *at++ = digits[n >> 12 & 63];
        *at++ = i + 1 < size ? digits[n >> 6 & 63] : '=';
        *at++ = i + 2 < size ? digits[n & 63] : '=';
    }
    *at = 0;
    return text;
}

void json_set_bytes(json_t *object, const char *name, const void *data, size_t size) {
    json_t *text = json_stringn(size ? data : "", size); /* NULL if it is not UTF-8 */
    if (text) {
        json_object_set_new(object, name, text);
        return;
    }
    char other[300];
    snprintf(other, sizeof other, "%.280s_base64", name);
    char *encoded = base64(data, size);
    json_object_set_new(object, other, json_string(encoded));
    free(encoded);
}
