// SPDX-License-Identifier: Apache-2.0
#include "supervisor/node.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/mr-node-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

static struct config config_with(unsigned shards) {
    struct config c;
    struct err_detail d = {0};
    char text[512], number[16];
    snprintf(number, sizeof number, "%u", shards);
    int n =
        snprintf(text, sizeof text,
                 "node: n1\ndata: %s/a/data\nshards: %s\ncluster: {name: c, initial: {n1: 127.0.0.1:7410}}\n",
                 folder, shards ? number : "auto");
    cr_assert_eq(config_parse("m", text, (size_t)n, &c, &d), ERR_OK, "%s", d.text);
    return c;
}

static const char *inside(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/a/data/%s", folder, name);
    return path;
}

static void put_file(const char *name, const char *text) {
    FILE *f = fopen(inside(name), "w");
    fputs(text, f);
    fclose(f);
}

static enum err open_and_close(unsigned shards, unsigned *settled, struct err_detail *d) {
    struct config c = config_with(shards);
    int lock = -1;
    enum err e = node_open(&c, &lock, d);
    *settled = c.shards;
    cr_assert_eq(e == ERR_OK, lock >= 0);
    if (lock >= 0)
        close(lock);
    config_free(&c);
    return e;
}

TestSuite(node, .init = make_folder, .fini = remove_folder);

Test(node, the_first_start_writes_down_the_shards) {
    struct err_detail d = {0};
    unsigned shards;
    cr_assert_eq(open_and_close(3, &shards, &d), ERR_OK, "%s", d.text);
    cr_assert_eq(open_and_close(0, &shards, &d), ERR_OK, "%s", d.text);
    cr_assert_eq(shards, 3, "auto is what the folder has");
    cr_assert_eq(open_and_close(4, &shards, &d), ERR_INVALID);
    cr_assert_str_eq(d.text, "shards: 4, but the data folder has 3; expected 3 or auto");
}

Test(node, auto_is_the_number_of_cores_and_stays) {
    struct err_detail d = {0};
    unsigned first, second;
    cr_assert_eq(open_and_close(0, &first, &d), ERR_OK, "%s", d.text);
    cr_assert(first >= 1 && first <= CONFIG_SHARDS_AUTO_MAX);
    cr_assert_eq(open_and_close(0, &second, &d), ERR_OK);
    cr_assert_eq(first, second);
}

Test(node, a_damaged_shards_file_is_named) {
    static const char *const texts[] = {"", "0\n", "65\n", "2", "two\n", "2\n3\n"};
    struct err_detail d = {0};
    unsigned shards;
    cr_assert_eq(open_and_close(2, &shards, &d), ERR_OK);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        put_file("shards", texts[i]);
        cr_assert_eq(open_and_close(0, &shards, &d), ERR_IO, "'%s'", texts[i]);
        cr_assert_not_null(strstr(d.text, "is damaged, expected a number of 1 to 64"), "%s", d.text);
    }
}

Test(node, settled_shards_must_leave_the_ports_apart) {
    struct err_detail d = {0};
    unsigned shards;
    cr_assert_eq(open_and_close(2, &shards, &d), ERR_OK);
    put_file("shards", "64\n");
    struct config c = config_with(0);
    int lock = -1;
    c.listen_admin.port = 7470;
    cr_assert_eq(node_open(&c, &lock, &d), ERR_INVALID);
    cr_assert_not_null(strstr(d.text, "admin port 7470"), "%s", d.text);
    config_free(&c);
}

Test(node, one_mailroomd_a_folder) {
    struct config c = config_with(1);
    struct err_detail d = {0};
    int lock = -1, second = -1;
    cr_assert_eq(node_open(&c, &lock, &d), ERR_OK);
    cr_assert_eq(node_open(&c, &second, &d), ERR_BUSY);
    cr_assert_eq(second, -1);
    cr_assert_not_null(strstr(d.text, "is in use by another mailroomd (pid "), "%s", d.text);
    close(lock);
    cr_assert_eq(node_open(&c, &lock, &d), ERR_OK, "free again");
    close(lock);
    config_free(&c);
}

Test(node, sockets_of_earlier_processes_are_swept) {
    struct err_detail d = {0};
    struct stat st;
    unsigned shards;
    cr_assert_eq(open_and_close(1, &shards, &d), ERR_OK);
    put_file("run/shard-0.7.sock", "");
    put_file("run/notes", "");
    cr_assert_eq(open_and_close(1, &shards, &d), ERR_OK);
    cr_assert_neq(stat(inside("run/shard-0.7.sock"), &st), 0);
    cr_assert_eq(stat(inside("run/notes"), &st), 0);
}

Test(node, a_folder_that_cannot_be_made_is_named) {
    struct err_detail d = {0};
    unsigned shards;
    char path[96];
    snprintf(path, sizeof path, "%s/a", folder);
    FILE *f = fopen(path, "w");
    fclose(f);
    cr_assert_eq(open_and_close(1, &shards, &d), ERR_IO);
    cr_assert_not_null(strstr(d.text, "cannot make folder"), "%s", d.text);
}

Test(node, its_tree) {
    struct config c = config_with(2);
    struct child_spec s[TREE_CHILDREN_MAX];
    static const char *const order[] = {"controller", "gateway", "shard", "shard", "admin"};
    cr_assert_eq(node_children(&c, s), 5);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_str_eq(s[i].role, order[i]);
        cr_assert_eq(s[i].index, i == 3 ? 1 : 0);
        cr_assert_eq(s[i].restart, RESTART_PERMANENT);
    }
    cr_assert_eq(s[2].rank, s[3].rank, "shards recover side by side");
    config_free(&c);
}
