// SPDX-License-Identifier: Apache-2.0
/*
 * The happy path: libyaml loads the one document; read_mapping walks it along
 * the tables of keys below, each with its reader; then the rules between keys
 * are checked. The first error ends it, with the line of the offending node.
 */
#include "base/config.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/xalloc.h"

struct reader {
    yaml_document_t document;
    const char *file;
    struct err_detail *detail;
    struct config *out;
    const char *key; /* whose value is being read, for errors; NULL: the whole file's */
};

typedef enum err (*read_value)(struct reader *r, const yaml_node_t *value, void *field);

struct key {
    const char *name;
    read_value read;
    size_t offset; /* of the field in struct config */
    bool required;
};

static size_t line_of(const yaml_node_t *node) {
    return node->start_mark.line + 1;
}

#define REFUSE(r, node, ...) refuse((r), line_of(node), __VA_ARGS__)

static enum err refuse(struct reader *r, size_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static enum err refuse(struct reader *r, size_t line, const char *format, ...) {
    char text[ERR_DETAIL_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(r->detail, ERR_INVALID, "%s:%zu: %s%s%s", r->file, line, r->key ? r->key : "",
                   r->key ? ": " : "", text);
}

/* ---- values ---- */

/* The scalar's text, or NULL if it is none, is empty or hides a NUL. */
static const char *scalar(const yaml_node_t *node) {
    if (node->type != YAML_SCALAR_NODE || node->data.scalar.length == 0)
        return NULL;
    const char *text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

/* What stands there, for an error text. */
static const char *shown(const yaml_node_t *node) {
    if (node->type == YAML_MAPPING_NODE)
        return "a mapping";
    if (node->type == YAML_SEQUENCE_NODE)
        return "a list";
    const char *text = scalar(node);
    return text ? text : "nothing";
}

static bool is_name(const char *text) {
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    return n > 0 && n <= CONFIG_NAME_BYTES_MAX && text[n] == 0;
}

static enum err read_name(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    if (!text || !is_name(text))
        return REFUSE(r, value, "'%.80s' is not a name, expected 1 to %d of A-Z a-z 0-9 . _ -", shown(value),
                      CONFIG_NAME_BYTES_MAX);
    strcpy(field, text);
    return ERR_OK;
}

static enum err read_path(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    if (!text || strlen(text) > CONFIG_PATH_BYTES_MAX)
        return REFUSE(r, value, "'%.80s' is not a path, expected 1 to %d bytes", shown(value),
                      CONFIG_PATH_BYTES_MAX);
    strcpy(field, text);
    return ERR_OK;
}

static bool is_loopback(const char *host) {
    struct in_addr four;
    struct in6_addr six;
    if (inet_pton(AF_INET, host, &four) == 1)
        return ntohl(four.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &six) == 1)
        return IN6_IS_ADDR_LOOPBACK(&six);
    return strcmp(host, "localhost") == 0;
}

static bool parse_port(const char *text, uint16_t *port) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 5 || text[digits] != 0)
        return false;
    long n = strtol(text, NULL, 10);
    if (n < 1 || n > UINT16_MAX)
        return false;
    *port = (uint16_t)n;
    return true;
}

/* Letters, digits, dots and dashes; an IPv6 address only between brackets. */
static bool parse_host(const char *text, size_t size, char *host) {
    bool bracketed = size > 2 && text[0] == '[' && text[size - 1] == ']';
    if (bracketed) {
        text++;
        size -= 2;
    }
    if (size == 0 || size > CONFIG_HOST_BYTES_MAX)
        return false;
    memcpy(host, text, size);
    host[size] = 0;
    struct in6_addr six;
    if (bracketed)
        return inet_pton(AF_INET6, host, &six) == 1;
    return host[strspn(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-")] == 0;
}

static bool parse_address(const char *text, struct config_address *out) {
    const char *colon = strrchr(text, ':');
    if (!colon || !parse_port(colon + 1, &out->port) || !parse_host(text, (size_t)(colon - text), out->host))
        return false;
    strcpy(out->text, text);
    return true;
}

static enum err read_address(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    if (!text || !parse_address(text, field))
        return REFUSE(r, value, "'%.80s' is not an address, expected host:port with a port of 1 to 65535",
                      shown(value));
    return ERR_OK;
}

static enum err read_duration(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    if (!text || !duration_parse(text, field))
        return REFUSE(r, value, "'%.80s' is not a duration, expected a number with ms, s, m, h or d",
                      shown(value));
    return ERR_OK;
}

static enum err read_size(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    if (!text || !size_parse(text, field))
        return REFUSE(r, value, "'%.80s' is not a size, expected a number with KiB, MiB or GiB",
                      shown(value));
    return ERR_OK;
}

static enum err read_shards(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    unsigned *shards = field;
    char *end = NULL;
    *shards = 0;
    if (text && strcmp(text, "auto") == 0)
        return ERR_OK;
    long n = text && text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : 0;
    if (n < 1 || n > CONFIG_SHARDS_MAX || *end)
        return REFUSE(r, value, "'%.80s' is no number of shards, expected auto or 1 to %d", shown(value),
                      CONFIG_SHARDS_MAX);
    *shards = (unsigned)n;
    return ERR_OK;
}

static enum err read_bool(struct reader *r, const yaml_node_t *value, void *field) {
    const char *text = scalar(value);
    bool yes = text && strcmp(text, "true") == 0;
    if (!yes && (!text || strcmp(text, "false") != 0))
        return REFUSE(r, value, "'%.80s', expected true or false", shown(value));
    *(bool *)field = yes;
    return ERR_OK;
}

/* ---- mappings ---- */

static yaml_node_t *node_at(struct reader *r, int index) {
    return yaml_document_get_node(&r->document, index);
}

/* The value of the first `name` in mapping, or NULL. */
static const yaml_node_t *find(struct reader *r, const yaml_node_t *mapping, const char *name) {
    if (!mapping || mapping->type != YAML_MAPPING_NODE)
        return NULL;
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < mapping->data.mapping.pairs.top; p++) {
        const char *text = scalar(node_at(r, p->key));
        if (text && strcmp(text, name) == 0)
            return node_at(r, p->value);
    }
    return NULL;
}

/* The key's text; refuses one that stood before. */
static enum err read_key(struct reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair,
                         const char **text) {
    const yaml_node_t *key = node_at(r, pair->key);
    *text = scalar(key);
    if (!*text)
        return REFUSE(r, key, "%s where a key was expected", shown(key));
    const yaml_node_pair_t *first = mapping->data.mapping.pairs.start;
    for (; first < pair; first++) {
        const char *other = scalar(node_at(r, first->key));
        if (other && strcmp(other, *text) == 0)
            return REFUSE(r, key, "'%.80s' stands twice, expected it once (first in line %zu)", *text,
                          line_of(node_at(r, first->key)));
    }
    return ERR_OK;
}

static enum err unknown_key(struct reader *r, const yaml_node_t *key, const struct key *keys) {
    char expected[160] = "";
    for (size_t n = 0; keys->name && n < sizeof expected; keys++)
        n += (size_t)snprintf(expected + n, sizeof expected - n, "%s%s", n ? ", " : "", keys->name);
    return REFUSE(r, key, "unknown key '%.64s', expected one of %s", shown(key), expected);
}

static enum err check_required(struct reader *r, const yaml_node_t *mapping, const struct key *keys) {
    for (; keys->name; keys++)
        if (keys->required && !find(r, mapping, keys->name))
            return REFUSE(r, mapping, "'%s' is missing, expected it here", keys->name);
    return ERR_OK;
}

static enum err read_mapping(struct reader *r, const yaml_node_t *node, const struct key *keys) {
    if (node->type != YAML_MAPPING_NODE)
        return REFUSE(r, node, "%.80s, expected a mapping of keys to values", shown(node));
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const char *name;
        enum err e = read_key(r, node, p, &name);
        if (e)
            return e;
        const struct key *k = keys;
        while (k->name && strcmp(k->name, name) != 0)
            k++;
        if (!k->name)
            return unknown_key(r, node_at(r, p->key), keys);
        const char *outer = r->key;
        r->key = k->name;
        e = k->read(r, node_at(r, p->value), (char *)r->out + k->offset);
        if (e)
            return e;
        r->key = outer;
    }
    return check_required(r, node, keys);
}

/* initial: { n1: 127.0.0.1:7410, ... }: keys are names, values addresses. */
static enum err read_initial(struct reader *r, const yaml_node_t *value, void *field) {
    if (value->type != YAML_MAPPING_NODE)
        return REFUSE(r, value, "%.80s, expected a mapping of node names to host:port", shown(value));
    yaml_node_pair_t *start = value->data.mapping.pairs.start;
    size_t count = (size_t)(value->data.mapping.pairs.top - start);
    if (count == 0 || count > CONFIG_NODES_MAX)
        return REFUSE(r, value, "%zu nodes, expected 1 to %d", count, CONFIG_NODES_MAX);
    struct config_node *nodes = r->out->initial = xcalloc(count, sizeof *nodes);
    r->out->initial_count = count;
    for (size_t i = 0; i < count; i++) {
        const char *name;
        enum err e = read_key(r, value, start + i, &name);
        if (!e)
            e = read_name(r, node_at(r, start[i].key), nodes[i].name);
        if (!e)
            e = read_address(r, node_at(r, start[i].value), &nodes[i].address);
        if (e)
            return e;
    }
    return ERR_OK;
}

static enum err read_join(struct reader *r, const yaml_node_t *value, void *field) {
    if (value->type != YAML_SEQUENCE_NODE)
        return REFUSE(r, value, "%.80s, expected a list of host:port", shown(value));
    yaml_node_item_t *start = value->data.sequence.items.start;
    size_t count = (size_t)(value->data.sequence.items.top - start);
    if (count == 0 || count > CONFIG_NODES_MAX)
        return REFUSE(r, value, "%zu addresses, expected 1 to %d", count, CONFIG_NODES_MAX);
    r->out->join = xcalloc(count, sizeof *r->out->join);
    r->out->join_count = count;
    for (size_t i = 0; i < count; i++) {
        enum err e = read_address(r, node_at(r, start[i]), &r->out->join[i]);
        if (e)
            return e;
    }
    return ERR_OK;
}

#define FIELD(name) offsetof(struct config, name)

static const struct key listen_keys[] = {{"client", read_address, FIELD(listen_client)},
                                         {"cluster", read_address, FIELD(listen_cluster)},
                                         {"admin", read_address, FIELD(listen_admin)},
                                         {0}};
static const struct key cluster_keys[] = {
    {"name", read_name, FIELD(cluster), true}, {"initial", read_initial}, {"join", read_join}, {0}};
static const struct key failure_keys[] = {{"heartbeat", read_duration, FIELD(heartbeat)},
                                          {"timeout", read_duration, FIELD(timeout)},
                                          {"replace_after", read_duration, FIELD(replace_after)},
                                          {"rebuild_grace", read_duration, FIELD(rebuild_grace)},
                                          {"watchdog", read_duration, FIELD(watchdog)},
                                          {0}};
static const struct key limits_keys[] = {{"message", read_size, FIELD(message_bytes_max)},
                                         {"memory", read_size, FIELD(memory_bytes_max)},
                                         {"segment", read_size, FIELD(segment_bytes)},
                                         {0}};

static enum err read_listen(struct reader *r, const yaml_node_t *value, void *field) {
    return read_mapping(r, value, listen_keys);
}

static enum err read_cluster(struct reader *r, const yaml_node_t *value, void *field) {
    return read_mapping(r, value, cluster_keys);
}

static enum err read_failure(struct reader *r, const yaml_node_t *value, void *field) {
    return read_mapping(r, value, failure_keys);
}

static enum err read_limits(struct reader *r, const yaml_node_t *value, void *field) {
    return read_mapping(r, value, limits_keys);
}

static const struct key root_keys[] = {{"node", read_name, FIELD(node), true},
                                       {"data", read_path, FIELD(data), true},
                                       {"run", read_path, FIELD(run)},
                                       {"upgrade_from", read_path, FIELD(upgrade_from)},
                                       {"listen", read_listen},
                                       {"shards", read_shards, FIELD(shards)},
                                       {"cluster", read_cluster, 0, true},
                                       {"failure", read_failure},
                                       {"limits", read_limits},
                                       {"insecure", read_bool, FIELD(insecure)},
                                       {0}};

static void config_defaults(struct config *out) {
    *out = (struct config){.heartbeat = 100 * USEC_MS,
                           .timeout = 600 * USEC_MS,
                           .replace_after = 30 * USEC_S,
                           .rebuild_grace = 30 * USEC_S,
                           .watchdog = 2 * USEC_S,
                           .message_bytes_max = 8 * MIB,
                           .memory_bytes_max = GIB,
                           .segment_bytes = 64 * MIB};
    parse_address("127.0.0.1:7400", &out->listen_client);
    parse_address("127.0.0.1:7410", &out->listen_cluster);
    parse_address("127.0.0.1:7480", &out->listen_admin);
}

/* ---- rules between keys ---- */

/* The line of section.key as far as it stands in the file. */
static size_t line_at(struct reader *r, const char *section, const char *key) {
    const yaml_node_t *root = yaml_document_get_root_node(&r->document);
    const yaml_node_t *in = find(r, root, section);
    const yaml_node_t *at = key ? find(r, in, key) : in;
    return line_of(at ? at : in ? in : root);
}

static enum err check_members(struct reader *r) {
    const struct config *c = r->out;
    if (c->initial && c->join)
        return refuse(r, line_at(r, "cluster", "join"), "both 'initial' and 'join', expected one of the two");
    if (!c->initial && !c->join)
        return refuse(r, line_at(r, "cluster", NULL),
                      "neither 'initial' nor 'join', expected one of the two");
    if (c->join)
        return ERR_OK;
    for (size_t i = 0; i < c->initial_count; i++)
        if (strcmp(c->initial[i].name, c->node) == 0)
            return ERR_OK;
    return refuse(r, line_at(r, "cluster", "initial"),
                  "node '%s' is not in 'initial', expected its name there", c->node);
}

static enum err check_host(struct reader *r, size_t line, const struct config_address *a) {
    if (r->out->insecure || is_loopback(a->host))
        return ERR_OK;
    return refuse(r, line,
                  "%.100s is reachable from outside, expected a loopback address or 'insecure: true'",
                  a->text);
}

static enum err check_hosts(struct reader *r) {
    const struct config *c = r->out;
    enum err e = check_host(r, line_at(r, "listen", "client"), &c->listen_client);
    if (!e)
        e = check_host(r, line_at(r, "listen", "cluster"), &c->listen_cluster);
    if (!e)
        e = check_host(r, line_at(r, "listen", "admin"), &c->listen_admin);
    for (size_t i = 0; !e && i < c->initial_count; i++)
        e = check_host(r, line_at(r, "cluster", "initial"), &c->initial[i].address);
    for (size_t i = 0; !e && i < c->join_count; i++)
        e = check_host(r, line_at(r, "cluster", "join"), &c->join[i]);
    return e;
}

struct range {
    const char *key;
    usec_t value;
    usec_t least;
    usec_t most;
};

static enum err check_durations(struct reader *r) {
    const struct config *c = r->out;
    const usec_t day = 86400 * USEC_S;
    const struct range ranges[] = {
        {"heartbeat", c->heartbeat, 10 * USEC_MS, 10 * USEC_S},
        {"timeout", c->timeout, 2 * c->heartbeat, 10 * 60 * USEC_S},
        {"replace_after", c->replace_after, c->timeout, 365 * day},
        {"rebuild_grace", c->rebuild_grace, 0, 365 * day},
        {"watchdog", c->watchdog, 100 * USEC_MS, 10 * 60 * USEC_S},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        char has[32], least[32], most[32];
        if (ranges[i].value >= ranges[i].least && ranges[i].value <= ranges[i].most)
            continue;
        return refuse(r, line_at(r, "failure", ranges[i].key), "%s of %s, expected %s to %s", ranges[i].key,
                      duration_format(ranges[i].value, has), duration_format(ranges[i].least, least),
                      duration_format(ranges[i].most, most));
    }
    return ERR_OK;
}

static enum err check_size(struct reader *r, const char *key, uint64_t value, uint64_t least, uint64_t most) {
    char has[32], low[32], high[32];
    if (value >= least && value <= most)
        return ERR_OK;
    return refuse(r, line_at(r, "limits", key), "%s of %s, expected %s to %s", key, size_format(value, has),
                  size_format(least, low), size_format(most, high));
}

/* A message must fit a segment several times over, or space cannot be taken back. */
static enum err check_sizes(struct reader *r) {
    struct config *c = r->out;
    const yaml_node_t *root = yaml_document_get_root_node(&r->document);
    bool given = find(r, find(r, root, "limits"), "message");
    if (!given && c->message_bytes_max > c->segment_bytes / 4)
        c->message_bytes_max = c->segment_bytes / 4;
    enum err e = check_size(r, "segment", c->segment_bytes, 256 * KIB, GIB);
    if (!e)
        e = check_size(r, "message", c->message_bytes_max, 1 * KIB, c->segment_bytes / 4);
    if (!e)
        e = check_size(r, "memory", c->memory_bytes_max, 64 * MIB, 1024 * 1024 * GIB);
    if (!e && c->memory_bytes_max < 4 * c->message_bytes_max)
        e = check_size(r, "memory", c->memory_bytes_max, 4 * c->message_bytes_max, 1024 * 1024 * GIB);
    return e;
}

static bool same_host(const char *a, const char *b) {
    bool any = strcmp(a, "0.0.0.0") == 0 || strcmp(b, "0.0.0.0") == 0 || strcmp(a, "::") == 0 ||
               strcmp(b, "::") == 0;
    return any || strcmp(a, b) == 0;
}

static bool in_cluster_range(const struct config *c, const struct config_address *a, unsigned shards) {
    const struct config_address *own = &c->listen_cluster;
    return same_host(own->host, a->host) && a->port >= own->port && a->port <= own->port + shards;
}

enum err config_check_ports(const struct config *c, unsigned shards, struct err_detail *detail) {
    unsigned last = c->listen_cluster.port + shards;
    if (last > UINT16_MAX)
        return err_set(detail, ERR_INVALID,
                       "cluster port %u and %u shards end at port %u, expected at most 65535",
                       c->listen_cluster.port, shards, last);
    const struct config_address *others[] = {&c->listen_client, &c->listen_admin};
    for (size_t i = 0; i < 2; i++)
        if (in_cluster_range(c, others[i], shards))
            return err_set(detail, ERR_INVALID,
                           "%s port %u, expected it outside of %u to %u (cluster port and %u shards)",
                           i ? "admin" : "client", others[i]->port, c->listen_cluster.port, last, shards);
    if (c->listen_client.port == c->listen_admin.port &&
        same_host(c->listen_client.host, c->listen_admin.host))
        return err_set(detail, ERR_INVALID, "client and admin port are both %u, expected two ports",
                       c->listen_admin.port);
    for (size_t i = 0; i < c->initial_count; i++)
        if (strcmp(c->initial[i].name, c->node) != 0 && in_cluster_range(c, &c->initial[i].address, shards))
            return err_set(
                detail, ERR_INVALID,
                "node %.64s at port %u, expected it outside of %u to %u (this node's cluster port and %u "
                "shards)",
                c->initial[i].name, c->initial[i].address.port, c->listen_cluster.port, last, shards);
    return ERR_OK;
}

static enum err check_ports(struct reader *r) {
    struct err_detail d;
    if (config_check_ports(r->out, r->out->shards ? r->out->shards : 1, &d) == ERR_OK)
        return ERR_OK;
    return refuse(r, line_at(r, "listen", "cluster"), "%.200s", d.text);
}

static enum err check_run(struct reader *r) {
    struct config *c = r->out;
    if (!c->run[0])
        snprintf(c->run, sizeof c->run, "%.*s/run", CONFIG_PATH_BYTES_MAX - 4, c->data);
    size_t most = CONFIG_IPC_PATH_BYTES_MAX - CONFIG_IPC_NAME_BYTES_MAX;
    if (strlen(c->run) <= most)
        return ERR_OK;
    return refuse(r, line_at(r, "run", NULL),
                  "run folder of %zu bytes is too long for local sockets, expected 'run' "
                  "of at most %zu bytes",
                  strlen(c->run), most);
}

static enum err check_rules(struct reader *r) {
    static enum err (*const rules[])(struct reader *) = {check_members, check_hosts, check_durations,
                                                         check_sizes,   check_ports, check_run};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        enum err e = rules[i](r);
        if (e)
            return e;
    }
    return ERR_OK;
}

/* ---- the document ---- */

static enum err yaml_error(struct reader *r, const yaml_parser_t *parser) {
    return refuse(r, parser->problem_mark.line + 1, "not YAML (%s), expected a mapping of keys to values",
                  parser->problem ? parser->problem : "unreadable");
}

/* The one document into r->document, which is to be deleted on ERR_OK. */
static enum err load(struct reader *r, yaml_parser_t *parser) {
    if (!yaml_parser_load(parser, &r->document))
        return yaml_error(r, parser);
    enum err e = ERR_OK;
    if (!yaml_document_get_root_node(&r->document))
        e = refuse(r, 1, "the file is empty, expected a mapping of keys to values");
    yaml_document_t second;
    if (!e && !yaml_parser_load(parser, &second))
        e = yaml_error(r, parser);
    else if (!e) {
        const yaml_node_t *more = yaml_document_get_root_node(&second);
        if (more)
            e = REFUSE(r, more, "a second document, expected one");
        yaml_document_delete(&second);
    }
    if (e)
        yaml_document_delete(&r->document);
    return e;
}

static enum err read_document(struct reader *r) {
    config_defaults(r->out);
    enum err e = read_mapping(r, yaml_document_get_root_node(&r->document), root_keys);
    return e ? e : check_rules(r);
}

enum err config_parse(const char *file_name, const void *text, size_t size, struct config *out,
                      struct err_detail *detail) {
    struct reader r = {.file = file_name, .detail = detail, .out = out};
    *out = (struct config){0};
    if (size > CONFIG_FILE_BYTES_MAX)
        return refuse(&r, 1, "%zu bytes, expected at most %d", size, CONFIG_FILE_BYTES_MAX);
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return err_set(detail, ERR_NO_MEMORY, "%s: no memory for the YAML parser", file_name);
    yaml_parser_set_input_string(&parser, text, size);
    enum err e = load(&r, &parser);
    if (!e) {
        e = read_document(&r);
        yaml_document_delete(&r.document);
    }
    yaml_parser_delete(&parser);
    if (e)
        config_free(out);
    return e;
}

void config_free(struct config *config) {
    free(config->initial);
    free(config->join);
    *config = (struct config){0};
}
