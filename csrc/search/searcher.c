#include "search/batch.h"
#include "search/matcher.h"
#include "search/report.h"
#include "search/scan.h"
#include "search/search.h"

struct um_searcher {
    struct um_search_setup setup; /* its pointers are owned, but for `cancel` and `find` */
    struct um_matcher *matcher;
    struct um_report report;
    struct um_scanner scanner;
};

/* ---- opening ------------------------------------------------------------------------------------- */

static int copy_text(const char *text, char **copy)
{
    *copy = text ? strdup(text) : NULL;
    return text != NULL && *copy == NULL ? -ENOMEM : 0;
}

static int copy_setup(const struct um_search_setup *from, struct um_search_setup *to)
{
    char *copy = NULL;
    *to = *from;
    to->patterns = NULL; /* the matcher has them */
    to->separator = NULL;
    memset(to->colors, 0, sizeof to->colors);
    int error = copy_text(from->separator, &copy);
    to->separator = copy;
    for (int i = 0; error == 0 && i < UM_SEARCH_COLORS; i++) {
        error = copy_text(from->colors[i], &copy);
        to->colors[i] = copy;
    }
    return error;
}

int um_searcher_open(const struct um_search_setup *setup, struct um_searcher **out,
                     struct um_fault *fault)
{
    struct um_searcher *searcher = calloc(1, sizeof *searcher);
    if (searcher == NULL)
        return -ENOMEM;
    fault->text[0] = '\0';
    int error = copy_setup(setup, &searcher->setup);
    if (error == 0)
        error = um_matcher_open(setup, &searcher->matcher, fault);
    if (error == 0)
        error = um_report_open(&searcher->setup, searcher->matcher, &searcher->report);
    if (error != 0) {
        um_searcher_close(searcher);
        return error;
    }
    *out = searcher;
    return 0;
}

void um_searcher_close(struct um_searcher *searcher)
{
    if (searcher == NULL)
        return;
    um_matcher_close(searcher->matcher);
    um_report_close(&searcher->report);
    um_scanner_close(&searcher->scanner);
    free((void *)searcher->setup.separator);
    for (int i = 0; i < UM_SEARCH_COLORS; i++)
        free((void *)searcher->setup.colors[i]);
    free(searcher);
}

/* ---- searching ------------------------------------------------------------------------------------ */

/* Search one file; its output is behind that of the others in the report. */
static int search_file(struct um_searcher *searcher, struct um_search_batch *batch,
                       struct um_search_file *file, bool any_group)
{
    struct um_report *report = &searcher->report;
    struct um_scanned scanned = {
        .node = file->node, .size = file->size, .has_holes = file->has_holes};
    um_report_begin(report, um_slice_of(batch->prefix, batch->prefix_size),
                    um_batch_name(batch, file), file->size);
    report->any_group = any_group;
    int error = um_scan(&searcher->scanner, &batch->source, report, &scanned);
    if (error == 0) {
        um_report_end(report, scanned.selected);
        error = report->error;
    }
    if (error != 0)
        return error;
    file->flags = scanned.selected != 0 ? UM_SEARCH_SELECTED : 0;
    file->flags |= scanned.is_binary ? UM_SEARCH_BINARY : 0;
    file->flags |= scanned.error ? UM_SEARCH_FAILED : 0;
    if (report->any_group && (searcher->setup.before >= 0 || searcher->setup.after >= 0))
        file->flags |= UM_SEARCH_GROUPS;
    file->error = scanned.error;
    file->output = report->begin;
    file->output_size = report->size - report->begin;
    file->leading = report->leading;
    return 0;
}

static int compare_places(const void *a, const void *b, void *context)
{
    const struct um_search_file *files = context;
    uint32_t i, j;
    memcpy(&i, a, sizeof i);
    memcpy(&j, b, sizeof j);
    const struct um_search_file *left = &files[i], *right = &files[j];
    if (left->layer != right->layer)
        return left->layer < right->layer ? -1 : 1;
    if (left->place != right->place)
        return left->place < right->place ? -1 : 1;
    return (i > j) - (i < j);
}

static int search_sorted(struct um_searcher *searcher, struct um_search_batch *batch,
                         const uint32_t *order)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < batch->n; i++) {
        struct um_search_file *file = &batch->files[order[i]];
        if (file->flags & UM_SEARCH_FAILED) /* a directory */
            continue;
        error = search_file(searcher, batch, file, false);
        if (error == -ENOBUFS) {
            searcher->report.size = searcher->report.begin;
            file->flags = UM_SEARCH_LARGE;
            error = 0;
        }
    }
    return error;
}

int um_searcher_run(struct um_searcher *searcher, struct um_search_batch *batch)
{
    struct um_report *report = &searcher->report;
    um_autofree uint32_t *order = calloc(batch->n + 1, sizeof *order);
    if (order == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < batch->n; i++)
        order[i] = (uint32_t)i;
    qsort_r(order, batch->n, sizeof *order, compare_places, batch->files);
    report->size = 0;
    report->write = NULL;
    batch->records = searcher->setup.flags & UM_SEARCH_RECORDS;
    um_matcher_enter(searcher->matcher);
    int error = search_sorted(searcher, batch, order);
    um_matcher_leave(searcher->matcher);
    free(batch->output);
    batch->output = um_steal(&report->output);
    report->capacity = 0;
    return error;
}

int um_searcher_stream(struct um_searcher *searcher, struct um_search_batch *batch, uint64_t file,
                       bool any_group, int32_t (*write)(const char *data, uint64_t size),
                       struct um_search_event *event)
{
    struct um_report *report = &searcher->report;
    if (file >= batch->n)
        return -EINVAL;
    struct um_search_file *one = &batch->files[file];
    report->size = 0;
    report->write = write;
    um_matcher_enter(searcher->matcher);
    int error = search_file(searcher, batch, one, any_group);
    um_matcher_leave(searcher->matcher);
    if (error == 0 && report->size != 0 && write((const char *)report->output, report->size) != 0)
        error = -ECANCELED;
    report->write = NULL;
    *event = (struct um_search_event){.path = (const char *)batch->names + one->name,
                                      .path_size = one->name_size,
                                      .flags = one->flags,
                                      .error = one->error,
                                      .file = file};
    return error;
}
