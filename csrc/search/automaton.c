#include "search/automaton.h"

/* The numbers of states: those below FIRST have no rows of their own. */
enum { UNKNOWN, ACCEPT, DEAD, FIRST };

#define MAX_STATES 4096u
#define MAX_MEMBERS (1u << 21) /* steps in all states together */

typedef uint32_t row[256];

/* A state is a set of steps that wait for a byte, or for the end of a line. */
struct state {
    size_t first; /* of its steps in `members` */
    uint32_t n;
    uint32_t next_same; /* a state with the same hash, or 0 */
    bool at_begin;      /* nothing of the line has been read */
};

struct um_automaton {
    const struct um_expression *expression;
    uint8_t eol;
    row *rows;
    struct state *states;
    size_t n_states, rows_capacity, states_capacity;
    uint32_t *members;
    size_t n_members, members_capacity;
    uint32_t heads[1024]; /* states by hash; 0: none */
    uint32_t *marks, mark; /* steps that were visited */
    uint32_t *stack, *set; /* room for all steps each */
    size_t n_set;
    uint32_t *again; /* the steps that begin a match later in a line */
    size_t n_again;
    bool matched; /* the set that is being made has the end of a match */
    uint32_t begin, idle; /* the states at the beginning of a line, and where nothing has begun */
    bool stays[256]; /* bytes that leave the idle state as it is */
};

/* ---- sets of steps ------------------------------------------------------------------------------- */

static void clear_set(struct um_automaton *automaton)
{
    automaton->n_set = 0;
    automaton->matched = false;
    if (++automaton->mark == 0) {
        memset(automaton->marks, 0, automaton->expression->n_steps * sizeof *automaton->marks);
        automaton->mark = 1;
    }
}

/* Add a step, or those that it leads to without a byte. */
static void add_step(struct um_automaton *automaton, uint32_t number, bool at_begin, bool at_end)
{
    const struct um_expression *expression = automaton->expression;
    size_t n = 0;
    if (automaton->marks[number] == automaton->mark)
        return;
    automaton->marks[number] = automaton->mark;
    automaton->stack[n++] = number;
    while (n != 0) {
        uint32_t at = automaton->stack[--n], next[2], n_next = 0;
        const struct um_step *step = &expression->steps[at];
        if (step->kind == UM_STEP_MATCH)
            automaton->matched = true;
        else if (step->kind == UM_STEP_SPLIT || (step->kind == UM_STEP_BEGIN && at_begin) ||
                 (step->kind == UM_STEP_END && at_end))
            next[n_next++] = step->next;
        else if (step->kind != UM_STEP_BEGIN)
            automaton->set[automaton->n_set++] = at;
        if (step->kind == UM_STEP_SPLIT)
            next[n_next++] = step->other;
        while (n_next-- != 0) {
            if (automaton->marks[next[n_next]] != automaton->mark) {
                automaton->marks[next[n_next]] = automaton->mark;
                automaton->stack[n++] = next[n_next];
            }
        }
    }
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t left, right;
    memcpy(&left, a, sizeof left);
    memcpy(&right, b, sizeof right);
    return (left > right) - (left < right);
}

static uint32_t hash_set(const struct um_automaton *automaton, bool at_begin)
{
    uint64_t hash = at_begin;
    for (size_t i = 0; i < automaton->n_set; i++)
        hash = um_hash_number(hash + automaton->set[i] + 1);
    return (uint32_t)(hash % (sizeof automaton->heads / sizeof *automaton->heads));
}

/* ---- states --------------------------------------------------------------------------------------- */

static void forget_states(struct um_automaton *automaton)
{
    automaton->n_states = FIRST;
    automaton->n_members = 0;
    automaton->begin = automaton->idle = UNKNOWN;
    memset(automaton->heads, 0, sizeof automaton->heads);
}

static uint32_t find_state(const struct um_automaton *automaton, uint32_t hash, bool at_begin)
{
    uint32_t at = automaton->heads[hash];
    for (; at != 0; at = automaton->states[at].next_same) {
        const struct state *state = &automaton->states[at];
        if (state->n == automaton->n_set && state->at_begin == at_begin &&
            memcmp(&automaton->members[state->first], automaton->set,
                   automaton->n_set * sizeof *automaton->set) == 0)
            break;
    }
    return at;
}

/* Return the state of the set that was made. */
static int keep_set(struct um_automaton *automaton, bool at_begin, uint32_t *number)
{
    qsort(automaton->set, automaton->n_set, sizeof *automaton->set, compare_numbers);
    at_begin &= automaton->expression->has_begin; /* else both are the same */
    uint32_t hash = hash_set(automaton, at_begin);
    *number = find_state(automaton, hash, at_begin);
    if (*number != 0)
        return 0;
    int error = um_reserve((void **)&automaton->states, &automaton->states_capacity,
                           automaton->n_states + 1, sizeof *automaton->states);
    if (error == 0)
        error = um_reserve((void **)&automaton->rows, &automaton->rows_capacity,
                           automaton->n_states + 1, sizeof *automaton->rows);
    if (error == 0)
        error = um_reserve((void **)&automaton->members, &automaton->members_capacity,
                           automaton->n_members + automaton->n_set, sizeof *automaton->members);
    if (error != 0)
        return error;
    *number = (uint32_t)automaton->n_states++;
    automaton->states[*number] = (struct state){.first = automaton->n_members,
                                                .n = (uint32_t)automaton->n_set,
                                                .next_same = automaton->heads[hash],
                                                .at_begin = at_begin};
    automaton->heads[hash] = *number;
    memset(automaton->rows[*number], 0, sizeof(row));
    memcpy(&automaton->members[automaton->n_members], automaton->set,
           automaton->n_set * sizeof *automaton->set);
    automaton->n_members += automaton->n_set;
    return 0;
}

/* Return the state of the set that was made, or one of those that have no set. */
static int settle(struct um_automaton *automaton, bool at_begin, uint32_t *number)
{
    *number = automaton->matched ? ACCEPT : DEAD;
    if (automaton->matched || automaton->n_set == 0)
        return 0;
    return keep_set(automaton, at_begin, number);
}

static int begin_state(struct um_automaton *automaton)
{
    if (automaton->begin != UNKNOWN)
        return 0;
    clear_set(automaton);
    add_step(automaton, automaton->expression->first, true, false);
    return settle(automaton, true, &automaton->begin);
}

/* Return whether the end of a line makes a state accept it. */
static bool ends_match(struct um_automaton *automaton, const struct state *state)
{
    clear_set(automaton);
    for (uint32_t i = 0; i < state->n && !automaton->matched; i++) {
        uint32_t at = automaton->members[state->first + i];
        if (automaton->expression->steps[at].kind == UM_STEP_END)
            add_step(automaton, at, state->at_begin, true);
    }
    return automaton->matched;
}

static bool takes(const struct um_expression *expression, const struct um_step *step, uint8_t byte)
{
    return step->kind == UM_STEP_BYTE  ? step->byte == byte
           : step->kind == UM_STEP_SET ? um_byte_set_has(&expression->sets[step->set], byte)
                                       : false;
}

/* Make the set behind a byte. */
static void advance(struct um_automaton *automaton, const struct state *state, uint8_t byte)
{
    const struct um_expression *expression = automaton->expression;
    clear_set(automaton);
    for (uint32_t i = 0; i < state->n; i++) {
        const struct um_step *step = &expression->steps[automaton->members[state->first + i]];
        if (takes(expression, step, byte))
            add_step(automaton, step->next, false, false);
    }
    for (size_t i = 0; i < automaton->n_again; i++)
        add_step(automaton, automaton->again[i], false, false);
}

/* Find where a byte leads from a state. All states may be forgotten: *from is then 0. */
static int find_next(struct um_automaton *automaton, uint32_t *from, uint8_t byte, uint32_t *next)
{
    struct state state = automaton->states[*from];
    int error;
    if (byte == automaton->eol) {
        *next = ends_match(automaton, &state) ? ACCEPT : UNKNOWN;
        error = *next == ACCEPT ? 0 : begin_state(automaton);
        if (*next != ACCEPT)
            *next = automaton->begin;
    } else {
        advance(automaton, &state, byte);
        if (automaton->n_states >= MAX_STATES || automaton->n_members >= MAX_MEMBERS) {
            forget_states(automaton);
            *from = UNKNOWN;
        }
        error = settle(automaton, false, next);
    }
    if (error == 0 && *from != UNKNOWN)
        automaton->rows[*from][byte] = *next;
    return error;
}

/* Make the state in which no match has begun, and learn which bytes do not begin any. */
static int idle_state(struct um_automaton *automaton)
{
    clear_set(automaton);
    for (size_t i = 0; i < automaton->n_again; i++)
        add_step(automaton, automaton->again[i], false, false);
    int error = settle(automaton, false, &automaton->idle);
    memset(automaton->stays, 0, sizeof automaton->stays);
    for (unsigned byte = 0; error == 0 && automaton->idle >= FIRST && byte < 256; byte++) {
        uint32_t from = automaton->idle, next = UNKNOWN;
        error = find_next(automaton, &from, (uint8_t)byte, &next);
        automaton->stays[byte] = next == automaton->idle;
    }
    return error;
}

static int prepare(struct um_automaton *automaton)
{
    int error = automaton->idle == UNKNOWN ? idle_state(automaton) : 0;
    return error ? error : begin_state(automaton);
}

/* ---- scanning ------------------------------------------------------------------------------------- */

int um_automaton_scan(struct um_automaton *automaton, const uint8_t *at, const uint8_t *end,
                      const uint8_t **found)
{
    uint32_t state, next;
    int error = prepare(automaton);
    if (error != 0)
        return error;
    state = automaton->begin;
    while (at < end) {
        if (state == ACCEPT)
            break;
        if (state == DEAD) {
            at = memchr(at, automaton->eol, (size_t)(end - at));
            if (at == NULL)
                return 0;
            at++;
            error = prepare(automaton);
            if (error != 0)
                return error;
            state = automaton->begin;
            continue;
        }
        if (state == automaton->idle) {
            while (at < end && automaton->stays[*at])
                at++;
            if (at == end)
                return 0;
        }
        next = automaton->rows[state][*at];
        if (next == UNKNOWN) {
            error = find_next(automaton, &state, *at, &next);
            if (error != 0)
                return error;
            if (next != ACCEPT && next != DEAD && automaton->idle == UNKNOWN) {
                at++; /* the states were forgotten */
                state = next;
                continue;
            }
        }
        if (next == ACCEPT) {
            *found = at;
            return 1;
        }
        state = next;
        at++;
    }
    *found = at;
    return at < end;
}

/* ---- opening -------------------------------------------------------------------------------------- */

int um_automaton_open(const struct um_expression *expression, uint8_t eol,
                      struct um_automaton **out)
{
    struct um_automaton *automaton = calloc(1, sizeof *automaton);
    size_t n = expression->n_steps;
    if (automaton == NULL)
        return -ENOMEM;
    automaton->expression = expression;
    automaton->eol = eol;
    automaton->marks = calloc(n, sizeof *automaton->marks);
    automaton->stack = calloc(n, sizeof *automaton->stack);
    automaton->set = calloc(n, sizeof *automaton->set);
    automaton->again = calloc(n, sizeof *automaton->again);
    if (!automaton->marks || !automaton->stack || !automaton->set || !automaton->again) {
        um_automaton_close(automaton);
        return -ENOMEM;
    }
    forget_states(automaton);
    clear_set(automaton);
    add_step(automaton, expression->first, false, false);
    automaton->n_again = automaton->n_set;
    memcpy(automaton->again, automaton->set, automaton->n_set * sizeof *automaton->set);
    *out = automaton;
    return 0;
}

void um_automaton_close(struct um_automaton *automaton)
{
    if (automaton == NULL)
        return;
    free(automaton->rows);
    free(automaton->states);
    free(automaton->members);
    free(automaton->marks);
    free(automaton->stack);
    free(automaton->set);
    free(automaton->again);
    free(automaton);
}
