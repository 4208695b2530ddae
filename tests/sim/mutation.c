// SPDX-License-Identifier: Apache-2.0
/* Which rule this run breaks: none, or (sim_mutated only) the one --mutation names. */
#include "base/mutation.h"

#include <stdio.h>
#include <string.h>

#include "sim.h"

static const struct {
    const char *name, *rule;
} mutations[] = {
#define X(name, rule) {#name, rule},
    MUTATIONS(X)
#undef X
};

enum { MUTATIONS_COUNT = sizeof mutations / sizeof *mutations };

void sim_mutations_list(void) {
    for (int i = 0; i < MUTATIONS_COUNT; i++)
        printf("%s\t%s\n", mutations[i].name, mutations[i].rule);
}

#ifdef MAILROOM_MUTATIONS
enum mutation mutation_chosen = MUTATION_NONE;

bool sim_mutate(const char *name) {
    for (int i = 0; i < MUTATIONS_COUNT; i++)
        if (strcmp(mutations[i].name, name) == 0)
            mutation_chosen = (enum mutation)(MUTATION_NONE + 1 + i);
    return mutation_chosen != MUTATION_NONE;
}
#else
bool sim_mutate(const char *name) {
    fprintf(stderr, "%s: only sim_mutated can break a rule\n", name);
    return false;
}
#endif
