#include "base/table.h"
#include "harness.h"

/* The model is an array that is read from its beginning: what it holds is beyond doubt. */

struct entry {
    uint64_t key;
    uint32_t value;
    uint8_t more[20]; /* so that the width is no power of two */
};

#define MODEL_ROOM 4096u

struct model {
    struct entry entries[MODEL_ROOM];
    size_t n;
};

static struct entry *model_find(struct model *model, uint64_t key)
{
    for (size_t i = 0; i < model->n; i++) {
        if (model->entries[i].key == key)
            return &model->entries[i];
    }
    return NULL;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static struct entry *find(const struct um_table *table, uint64_t key)
{
    return um_table_find(table, sizeof(struct entry), key);
}

static int set(struct um_table *table, uint64_t key, uint32_t value)
{
    int error = um_table_reserve(table, sizeof(struct entry), 1);
    if (error != 0)
        return error;
    struct entry *entry = um_table_add(table, sizeof *entry, key);
    entry->value = value;
    return 0;
}

/* Every entry of the model is in the table, and the table has no others. */
static void check_same(const struct um_table *table, struct model *model)
{
    size_t n = 0;
    CHECK_INT(table->n, model->n);
    CHECK(table->n <= table->n_slots / 2);
    for (size_t i = 0; i < model->n; i++) {
        const struct entry *found = find(table, model->entries[i].key);
        REQUIRE(found != NULL);
        CHECK_INT(found->value, model->entries[i].value);
    }
    for (const struct entry *entry = NULL;
         (entry = um_table_next(table, sizeof *entry, entry)) != NULL; n++)
        CHECK(model_find(model, entry->key) != NULL);
    CHECK_INT(n, model->n);
}

static void set_in_both(struct um_table *table, struct model *model, uint64_t key, uint32_t value)
{
    struct entry *known = model_find(model, key);
    CHECK_INT(set(table, key, value), 0);
    if (known == NULL)
        known = &model->entries[model->n++];
    *known = (struct entry){.key = key, .value = value};
}

static void remove_from_both(struct um_table *table, struct model *model, uint64_t key)
{
    struct entry *known = model_find(model, key), *entry = find(table, key);
    CHECK((known != NULL) == (entry != NULL));
    if (known == NULL || entry == NULL)
        return;
    um_table_remove(table, sizeof *entry, entry);
    *known = model->entries[--model->n];
    CHECK(find(table, key) == NULL);
}

/* Operations on keys that `key_of` makes of 0 … n_keys - 1; the table grows in one half of them, and
 * shrinks in the other. */
static void operate(uint64_t seed, uint32_t n_keys, uint64_t (*key_of)(uint32_t number))
{
    static struct model model;
    struct um_table table = {0};
    model.n = 0;
    for (unsigned i = 0; i < 8 * n_keys; i++) {
        uint64_t random = next_random(&seed);
        uint64_t key = key_of((uint32_t)(random >> 16) % n_keys);
        bool grows = i / n_keys % 4 < 2;
        if (random % 8 < (grows ? 6 : 2))
            set_in_both(&table, &model, key, (uint32_t)(random >> 40));
        else
            remove_from_both(&table, &model, key);
        if (i % 64 == 0 || i + 1 == 8 * n_keys)
            check_same(&table, &model);
    }
    while (model.n != 0)
        remove_from_both(&table, &model, model.entries[model.n / 2].key);
    check_same(&table, &model);
    um_table_clear(&table, sizeof(struct entry));
}

static uint64_t in_a_row(uint32_t number)
{
    return number + 1;
}

static uint64_t far_apart(uint32_t number)
{
    return (uint64_t)(number + 1) << 40;
}

static uint64_t at_the_end(uint32_t number)
{
    return UINT64_MAX - number;
}

/* Keys that all have the last slot of 64 as their home, so that each run of them goes round the end. */
static uint64_t with_one_home(uint32_t number)
{
    static uint64_t keys[32];
    if (keys[0] == 0) {
        size_t n = 0;
        for (uint64_t key = 1; n < 32; key++) {
            if ((um_hash_number(key) & 63) == 63)
                keys[n++] = key;
        }
    }
    return keys[number];
}

TEST(random_operations_are_those_of_the_model)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        operate(seed * 0x9e3779b97f4a7c15ull, 40, in_a_row);
        operate(seed * 0x9e3779b97f4a7c15ull, 700, far_apart);
        operate(seed * 0x9e3779b97f4a7c15ull, 300, at_the_end);
        operate(seed * 0x9e3779b97f4a7c15ull, 30, with_one_home);
    }
}

TEST(an_empty_table_has_no_entries)
{
    struct um_table table = {0};
    CHECK(find(&table, 1) == NULL);
    CHECK(um_table_next(&table, sizeof(struct entry), NULL) == NULL);
    um_table_clear(&table, sizeof(struct entry));
    REQUIRE(set(&table, 1, 1) == 0);
    CHECK(find(&table, 0) == NULL); /* no key, but what an empty slot has */
    um_table_clear(&table, sizeof(struct entry));
    CHECK(find(&table, 1) == NULL);
}

TEST(a_new_entry_is_zeros_where_an_old_one_was)
{
    struct um_table table = {0};
    for (uint64_t key = 1; key <= 20; key++)
        REQUIRE(set(&table, key, UINT32_MAX) == 0);
    for (uint64_t key = 1; key <= 20; key++)
        um_table_remove(&table, sizeof(struct entry), find(&table, key));
    for (uint64_t key = 1; key <= 20; key++) {
        const struct entry *entry = um_table_add(&table, sizeof *entry, key);
        CHECK_INT(entry->value, 0);
    }
    um_table_clear(&table, sizeof(struct entry));
}

TEST(a_table_shrinks_when_most_of_it_is_gone)
{
    struct um_table table = {0};
    for (uint64_t key = 1; key <= 4096; key++)
        REQUIRE(set(&table, key, (uint32_t)key) == 0);
    CHECK_INT(table.n_slots, 8192);
    for (uint64_t key = 1; key <= 4000; key++)
        um_table_remove(&table, sizeof(struct entry), find(&table, key));
    CHECK_INT(table.n_slots, 512);
    for (uint64_t key = 4001; key <= 4096; key++) {
        const struct entry *entry = find(&table, key);
        REQUIRE(entry != NULL);
        CHECK_INT(entry->value, key);
    }
    um_table_clear(&table, sizeof(struct entry));
}

TEST(a_table_that_may_not_grow_stays_as_it_is)
{
    struct um_budget budget = {.limit = 64 * sizeof(struct entry)};
    struct um_table table = {.budget = &budget};
    uint64_t key = 1;
    int error = 0;
    while (error == 0 && key < 1000)
        error = set(&table, key++, 7);
    CHECK_INT(error, -ENOBUFS);
    CHECK_INT(table.n, 32);
    CHECK_INT(budget.used, budget.limit);
    for (uint64_t known = 1; known <= 32; known++)
        CHECK(find(&table, known) != NULL);
    /* The old slots count until the new ones are filled. */
    budget.limit = (64 + 128) * sizeof(struct entry);
    CHECK_INT(set(&table, 33, 7), 0);
    CHECK_INT(budget.used, 128 * sizeof(struct entry));
    um_table_clear(&table, sizeof(struct entry));
    CHECK_INT(budget.used, 0);
}

TEST(a_table_of_impossible_size_is_refused)
{
    struct um_table table = {0};
    CHECK_INT(um_table_reserve(&table, sizeof(struct entry), SIZE_MAX), -ENOMEM);
    CHECK_INT(um_table_reserve(&table, sizeof(struct entry), SIZE_MAX / 32), -ENOMEM);
    REQUIRE(set(&table, 1, 1) == 0);
    CHECK_INT(um_table_reserve(&table, sizeof(struct entry), SIZE_MAX), -ENOMEM);
    CHECK(find(&table, 1) != NULL);
    um_table_clear(&table, sizeof(struct entry));
    struct um_numbers numbers = {0};
    CHECK_INT(um_numbers_reserve(&numbers, SIZE_MAX), -ENOMEM);
    CHECK_INT(um_numbers_reserve(&numbers, UINT32_MAX), -ENOMEM);
    um_numbers_clear(&numbers);
}

/* ---- records by hash --------------------------------------------------------------------------------- */

/* Record i is known by keys[i]. Three bits of hash: so most records meet others. */
static uint64_t hash_of(uint64_t key)
{
    return um_hash_number(key) & 0x70000007u;
}

static size_t place_of(const struct um_numbers *table, const uint64_t *keys, uint64_t key)
{
    size_t at = um_numbers_home(table, hash_of(key));
    for (uint32_t number; (number = um_numbers_at(table, at)) != UM_NUMBERS_NONE;
         at = um_numbers_behind(table, at)) {
        if (keys[number] == key)
            break;
    }
    return at;
}

static int put_record(struct um_numbers *table, uint64_t *keys, uint32_t number, uint64_t key)
{
    int grown = um_numbers_reserve(table, 1);
    for (uint32_t i = 0; grown > 0 && i < number; i++)
        um_numbers_add(table, hash_of(keys[i]), i);
    if (grown < 0)
        return grown;
    keys[number] = key;
    um_numbers_put(table, place_of(table, keys, key), number);
    return 0;
}

TEST(records_are_found_by_what_they_are_known_by)
{
    static uint64_t keys[MODEL_ROOM];
    struct um_numbers table = {0};
    uint64_t seed = 12345;
    for (uint32_t number = 0; number < 1500; number++) {
        REQUIRE(put_record(&table, keys, number, next_random(&seed)) == 0);
        CHECK(table.n <= table.n_slots / 2);
    }
    CHECK_INT(table.n, 1500);
    for (uint32_t number = 0; number < 1500; number++)
        CHECK_INT(um_numbers_at(&table, place_of(&table, keys, keys[number])), number);
    for (unsigned i = 0; i < 1500; i++)
        CHECK_INT(um_numbers_at(&table, place_of(&table, keys, next_random(&seed))),
                  UM_NUMBERS_NONE);
    um_numbers_clear(&table);
}

TEST(a_table_of_numbers_that_may_not_grow_stays_as_it_is)
{
    static uint64_t keys[MODEL_ROOM];
    struct um_budget budget = {.limit = 1000};
    struct um_numbers table = {.budget = &budget};
    uint32_t number = 0;
    int error = 0;
    while (error == 0 && number < 1000) {
        error = put_record(&table, keys, number, number + 1000u);
        number += error == 0;
    }
    CHECK_INT(error, -ENOBUFS);
    CHECK_INT(number, 64); /* 128 slots of four bytes; 256 more would be too many */
    CHECK_INT(budget.used, 512);
    for (uint32_t i = 0; i < number; i++)
        CHECK_INT(um_numbers_at(&table, place_of(&table, keys, i + 1000u)), i);
    um_numbers_clear(&table);
    CHECK_INT(budget.used, 0);
}
