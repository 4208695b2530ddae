// SPDX-License-Identifier: Apache-2.0
#include "supervisor/board.h"

#include <criterion/criterion.h>
#include <string.h>

static struct board board;
static struct board_view view;

Test(board, unwritten_or_half_written_is_not_read) {
    cr_assert(!board_read(&board, &view), "never written");
    board_write(&board)->processes_count = 1;
    cr_assert(!board_read(&board, &view), "in the middle of a write");
    board_written(&board);
    cr_assert(board_read(&board, &view));
    cr_assert_eq(view.processes_count, 1);
}

Test(board, keeps_the_last_deaths) {
    for (uint32_t i = 0; i < BOARD_DEATHS_MAX + 10; i++) {
        board_add_death(board_write(&board))->instance = i;
        board_written(&board);
    }
    cr_assert(board_read(&board, &view));
    cr_assert_eq(view.deaths_total, BOARD_DEATHS_MAX + 10);
    cr_assert_eq(board_death(&view, 0)->instance, 10);
    cr_assert_eq(board_death(&view, BOARD_DEATHS_MAX - 1)->instance, BOARD_DEATHS_MAX + 9);
    cr_assert_null(board_death(&view, BOARD_DEATHS_MAX));
}

Test(board, a_reader_trusts_no_text_and_no_count) {
    struct board_view *v = board_write(&board);
    v->processes_count = 100000;
    memset(v->processes[0].role, 'x', sizeof v->processes[0].role);
    memset(board_add_death(v)->last_words, 'x', PROCESS_WORDS_BYTES);
    board_written(&board);
    cr_assert(board_read(&board, &view));
    cr_assert_eq(view.processes_count, TREE_CHILDREN_MAX);
    cr_assert_eq(strlen(view.processes[0].role), CHILD_ROLE_BYTES - 1);
    cr_assert_eq(strlen(board_death(&view, 0)->last_words), PROCESS_WORDS_BYTES - 1);
}
