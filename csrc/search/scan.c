#include "search/scan.h"

#define PAGE 4096u
#define FIRST_SIZE (24u * PAGE)
#define LONGEST (1ull << 30) /* bytes of a line, with the context that is kept */
#define SLACK 16u /* for an end of line before and behind the data */

/* The state of one file. `begin` to `end` is the data; the last `rest` bytes are no whole line yet,
 * and the first `saved` bytes were there before the last piece. */
struct scan {
    struct um_scanner *scanner;
    const struct um_search_source *source;
    struct um_report *report;
    struct um_scanned *file;
    uint8_t eol;
    uint8_t *begin, *end;
    uint64_t offset; /* of the next byte to read */
    bool at_end;
    size_t size; /* GNU's size of its buffer */
    size_t saved, rest;
    bool zap; /* a NUL ends a line */
    bool stop_at_match;
    int64_t selected_before_nul; /* -1: no NUL was seen */
};

static bool has(const struct scan *scan, uint32_t flag)
{
    return (scan->report->setup->flags & flag) != 0;
}

/* Read up to `size` bytes behind the data. An error is the file's. */
static void read_piece(struct scan *scan, size_t size)
{
    int64_t n = 0;
    if (!scan->at_end)
        n = um_source_read(scan->source, scan->file->node, scan->offset, scan->end, size);
    if (n < 0) {
        scan->file->error = (int)n;
        return;
    }
    scan->at_end = (size_t)n < size;
    scan->offset += (uint64_t)n;
    scan->end += n;
}

/* Keep the last `save` bytes of the data, and read a piece behind them. */
static int fill(struct scan *scan, size_t save)
{
    struct um_scanner *scanner = scan->scanner;
    if (um_matcher_is_canceled(scan->report->matcher))
        return -ECANCELED;
    while (scan->size < save + PAGE)
        scan->size *= 2;
    if (scan->size > LONGEST)
        return -EFBIG;
    size_t pages = scan->size / PAGE + 1 - (save + SLACK + PAGE) / PAGE;
    size_t need = save + pages * PAGE + 2 * SLACK;
    size_t from = scan->end ? (size_t)(scan->end - scanner->room) - save : SLACK;
    int error = um_reserve((void **)&scanner->room, &scanner->capacity, need, 1);
    if (error != 0)
        return error;
    memmove(scanner->room + SLACK, scanner->room + from, save);
    scan->begin = scanner->room + SLACK;
    scan->begin[-1] = scan->eol;
    scan->end = scan->begin + save;
    scan->saved = save;
    read_piece(scan, pages * PAGE);
    return 0;
}

/* Find out whether the file is binary. False where it need not be searched. */
static bool look_for_nul(struct scan *scan, bool is_first)
{
    size_t size = (size_t)(scan->end - scan->begin);
    if (scan->selected_before_nul >= 0 || scan->eol == 0 || has(scan, UM_SEARCH_TEXT))
        return true;
    bool hole = is_first && scan->file->has_holes && size < scan->file->size;
    if (!hole && (size == 0 || memchr(scan->begin, 0, size) == NULL))
        return true;
    if (has(scan, UM_SEARCH_SKIP_BINARY))
        return false;
    if (!has(scan, UM_SEARCH_COUNT))
        scan->stop_at_match = scan->report->quiet = true;
    scan->selected_before_nul = (int64_t)scan->file->selected;
    scan->zap = true;
    return true;
}

/* Make each NUL an end of line, eight bytes at a time. */
static void zap_nuls(const struct scan *scan, uint8_t *at)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7full;
    uint64_t word;
    for (; (size_t)(scan->end - at) >= sizeof word; at += sizeof word) {
        memcpy(&word, at, sizeof word);
        uint64_t nuls = ~(((word & low) + low) | word | low); /* the high bit of each NUL */
        word |= (nuls >> 7) * scan->eol;
        memcpy(at, &word, sizeof word);
    }
    for (; at < scan->end; at++) {
        if (*at == 0)
            *at = scan->eol;
    }
}

/* Search whole lines. */
static int search_lines(struct scan *scan, uint8_t *at, uint8_t *end)
{
    struct um_report *report = scan->report;
    bool invert = has(scan, UM_SEARCH_INVERT);
    uint64_t left = report->left;
    int found = 1;
    while (at < end && report->error == 0) {
        struct um_slice line;
        found = um_matcher_line(report->matcher, um_slice_of(at, (size_t)(end - at)), &line);
        if (found < 0)
            return found;
        if (found == 0 && !invert)
            break;
        const uint8_t *first = found ? line.data : end;
        const uint8_t *next = found ? line.data + line.size : end;
        if (!invert)
            um_report_text(report, line);
        else if (at < first)
            um_report_text(report, um_slice_of(at, (size_t)(first - at)));
        if ((!invert || at < first) && (report->left == 0 || scan->stop_at_match))
            break;
        at += next - at;
    }
    scan->file->selected += left - report->left;
    return report->error;
}

/* Search the whole lines between two places, and print the context behind. */
static int search_piece(struct scan *scan, uint8_t *at, uint8_t *end)
{
    int error = 0;
    if (scan->report->left != 0)
        error = search_lines(scan, at, end);
    if (error == 0 && scan->report->pending != 0)
        um_report_pending(scan->report, end);
    return error ? error : scan->report->error;
}

static bool is_done(const struct scan *scan)
{
    int64_t before = scan->selected_before_nul > 0 ? scan->selected_before_nul : 0;
    return (scan->report->left == 0 && scan->report->pending == 0) ||
           (scan->stop_at_match && (uint64_t)before < scan->file->selected);
}

/* Find the context before the next piece that may have to be printed. */
static const uint8_t *keep_context(const struct scan *scan, const uint8_t *end)
{
    const uint8_t *keep = end;
    for (int64_t i = 0;
         i < scan->report->setup->before && keep > scan->begin && keep != scan->report->printed;
         i++) {
        const uint8_t *before = memrchr(scan->begin, scan->eol, (size_t)(keep - 1 - scan->begin));
        keep = before ? before + 1 : scan->begin;
    }
    return keep;
}

/* Search the piece that was read, and read the next one. 1 where there is one, 0, or an errno. */
static int next_piece(struct scan *scan)
{
    struct um_report *report = scan->report;
    uint8_t *fresh = scan->begin + scan->saved, *end;
    report->buffer = report->counted = scan->begin;
    report->printed = report->printed ? scan->begin : NULL;
    if (fresh == scan->end)
        return 0;
    if (scan->zap)
        zap_nuls(scan, fresh);
    uint8_t *last = memrchr(fresh, scan->eol, (size_t)(scan->end - fresh));
    end = last ? last + 1 : fresh - scan->rest;
    uint8_t *start = fresh - scan->rest;
    scan->rest = (size_t)(scan->end - end);
    if (start < end) {
        int error = search_piece(scan, start, end);
        if (error != 0)
            return error;
        if (is_done(scan)) {
            scan->rest = 0;
            return 0;
        }
    }
    const uint8_t *keep = keep_context(scan, end);
    if (keep != report->printed)
        report->printed = NULL;
    size_t save = scan->rest + (size_t)(end - keep);
    report->base += (uint64_t)(scan->end - scan->begin) - save;
    um_report_count(report, keep);
    int error = fill(scan, save);
    return error ? error : scan->file->error ? 0 : 1;
}

/* Search a last line that has no end. */
static int last_piece(struct scan *scan)
{
    if (scan->rest == 0 || scan->file->error != 0)
        return 0;
    uint8_t *start = scan->begin + scan->saved - scan->rest;
    *scan->end++ = scan->eol;
    return search_piece(scan, start, scan->end);
}

static int search_all(struct scan *scan)
{
    int more = fill(scan, 0);
    bool first = true;
    if (more != 0 || scan->file->error != 0)
        return more;
    for (more = 1; more == 1; first = false) {
        if (!look_for_nul(scan, first)) {
            scan->file->selected = 0; /* whatever was printed before the NUL */
            return 0;
        }
        more = next_piece(scan);
    }
    return more ? more : last_piece(scan);
}

int um_scan(struct um_scanner *scanner, const struct um_search_source *source,
            struct um_report *report, struct um_scanned *file)
{
    uint32_t stops = UM_SEARCH_QUIET | UM_SEARCH_LIST | UM_SEARCH_LIST_OTHERS;
    struct scan scan = {.scanner = scanner,
                        .source = source,
                        .report = report,
                        .file = file,
                        .eol = report->eol,
                        .size = FIRST_SIZE,
                        .stop_at_match = (report->setup->flags & stops) != 0,
                        .selected_before_nul = -1};
    file->selected = 0;
    file->error = um_source_open_file(source, file->node);
    if (file->error != 0)
        return 0;
    int error = search_all(&scan);
    um_source_release(source, file->node);
    if (error == -EFBIG || error == -ENOMEM) { /* of one long line: other files may be searched */
        file->error = error;
        report->error = error = 0;
    }
    bool silent = report->setup->flags & (stops | UM_SEARCH_COUNT);
    bool hidden =
        scan.selected_before_nul >= 0 && (uint64_t)scan.selected_before_nul < file->selected;
    file->is_binary = !silent && !has(&scan, UM_SEARCH_TEXT | UM_SEARCH_SKIP_BINARY) &&
                      (report->bad_text || hidden);
    return error;
}

void um_scanner_close(struct um_scanner *scanner)
{
    free(scanner->room);
    *scanner = (struct um_scanner){0};
}
