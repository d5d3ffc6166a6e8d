#include "search/report.h"

#include <inttypes.h>
#include <wchar.h>
#include <wctype.h>

#define KEEP_MAX (4u << 20) /* bytes of output for a batch */
#define STREAM_PIECE (256u << 10)

static const char *const default_colors[UM_SEARCH_COLORS] = {"01;31", "01;31", "35", "32",
                                                             "32",    "36",    "",   ""};

/* ---- bytes --------------------------------------------------------------------------------------- */

static void put(struct um_report *report, const void *bytes, size_t size)
{
    if (report->error != 0)
        return;
    if (report->write != NULL && report->size >= STREAM_PIECE) {
        if (report->write((const char *)report->output, report->size) != 0)
            report->error = -ECANCELED;
        report->size = 0;
    }
    if (report->write == NULL && report->size + size > report->limit)
        report->error = -ENOBUFS;
    if (report->error == 0)
        report->error =
            um_reserve((void **)&report->output, &report->capacity, report->size + size, 1);
    if (report->error != 0)
        return;
    if (size != 0)
        memcpy(report->output + report->size, bytes, size);
    report->size += size;
}

static void put_text(struct um_report *report, const char *text)
{
    put(report, text, strlen(text));
}

static bool has(const struct um_report *report, uint32_t flag)
{
    return (report->setup->flags & flag) != 0;
}

/* ---- colours --------------------------------------------------------------------------------------- */

static const char *color(const struct um_report *report, int which)
{
    const char *given = report->setup->colors[which];
    return given ? given : default_colors[which];
}

static void start_color(struct um_report *report, const char *parameters)
{
    if (!has(report, UM_SEARCH_COLOR) || *parameters == '\0')
        return;
    put_text(report, "\33[");
    put_text(report, parameters);
    put_text(report, has(report, UM_SEARCH_NO_ERASE) ? "m" : "m\33[K");
}

static void end_color(struct um_report *report, const char *parameters)
{
    if (has(report, UM_SEARCH_COLOR) && *parameters != '\0')
        put_text(report, has(report, UM_SEARCH_NO_ERASE) ? "\33[m" : "\33[m\33[K");
}

static void put_colored(struct um_report *report, int which, const void *bytes, size_t size)
{
    start_color(report, color(report, which));
    put(report, bytes, size);
    end_color(report, color(report, which));
}

/* ---- names ----------------------------------------------------------------------------------------- */

/* Print a name for a terminal: bytes that are no text as escapes. */
static void put_escaped(struct um_report *report, struct um_slice name)
{
    for (size_t at = 0; at < name.size;) {
        wchar_t wide = 0;
        mbstate_t state = {0};
        char escape[8];
        size_t size = mbrtowc(&wide, (const char *)name.data + at, name.size - at, &state);
        bool is_text = size != 0 && size <= name.size && iswprint((wint_t)wide);
        size = is_text ? size : 1;
        if (is_text)
            put(report, name.data + at, size);
        else if (name.data[at] == '\n')
            put_text(report, "\\n");
        else if (name.data[at] == '\t')
            put_text(report, "\\t");
        else {
            snprintf(escape, sizeof escape, "\\x%02x", name.data[at]);
            put_text(report, escape);
        }
        at += size;
    }
}

static void put_name(struct um_report *report)
{
    start_color(report, color(report, UM_SEARCH_FN));
    put(report, report->prefix.data, report->prefix.size);
    if (has(report, UM_SEARCH_ESCAPE))
        put_escaped(report, report->name);
    else
        put(report, report->name.data, report->name.size);
    end_color(report, color(report, UM_SEARCH_FN));
}

static void put_name_before(struct um_report *report, char separator)
{
    if (!has(report, UM_SEARCH_FILENAME))
        return;
    put_name(report);
    if (has(report, UM_SEARCH_NUL_NAME))
        put(report, "", 1);
    else
        put_colored(report, UM_SEARCH_SE, &separator, 1);
}

static void put_number(struct um_report *report, uint64_t number, int which, char separator)
{
    char text[32];
    int size = snprintf(text, sizeof text, "%*" PRIu64, (int)report->width, number);
    put_colored(report, which, text, (size_t)size);
    put_colored(report, UM_SEARCH_SE, &separator, 1);
}

static void put_record(struct um_report *report, uint32_t kind, uint64_t line, uint64_t offset,
                       uint64_t size, bool selected)
{
    struct um_search_record record = {line, offset, size, selected, kind};
    put(report, &record, sizeof record);
}

/* ---- lines --------------------------------------------------------------------------------------- */

void um_report_count(struct um_report *report, const uint8_t *end)
{
    const uint8_t *at = report->counted;
    if (!has(report, UM_SEARCH_LINE_NUMBER | UM_SEARCH_RECORDS))
        return;
    while (at < end && (at = memchr(at, report->eol, (size_t)(end - at))) != NULL) {
        report->lines++;
        at++;
    }
    report->counted = end;
}

bool um_report_is_bad(struct um_slice text)
{
    size_t at = 0;
    while (at < text.size) {
        uint64_t word;
        if (text.size - at >= sizeof word) {
            memcpy(&word, text.data + at, sizeof word);
            if ((word & 0x8080808080808080ull) == 0) {
                at += sizeof word;
                continue;
            }
        }
        if (text.data[at] < 0x80) {
            at++;
            continue;
        }
        mbstate_t state = {0};
        size_t size = mbrlen((const char *)text.data + at, text.size - at, &state);
        if (size == (size_t)-1 || size == (size_t)-2)
            return true;
        at += size;
    }
    return false;
}

/* Print what is before a line or a match. `end` is the end of the line. False where it is not shown,
 * since it is not text. */
static bool put_head(struct um_report *report, struct um_slice text, const uint8_t *end,
                     char separator)
{
    if (!has(report, UM_SEARCH_TEXT) && um_report_is_bad(text)) {
        report->bad_text = true;
        return false;
    }
    bool numbers = has(report, UM_SEARCH_LINE_NUMBER | UM_SEARCH_RECORDS);
    if (numbers && report->counted < end) {
        um_report_count(report, text.data);
        report->lines++;
        report->counted = end;
    }
    uint64_t offset = report->base + (uint64_t)(text.data - report->buffer);
    if (has(report, UM_SEARCH_RECORDS)) {
        put_record(report, UM_SEARCH_RECORD_TEXT, report->lines, offset, text.size,
                   separator == ':');
        return true;
    }
    put_name_before(report, separator);
    if (has(report, UM_SEARCH_LINE_NUMBER))
        put_number(report, report->lines, UM_SEARCH_LN, separator);
    if (has(report, UM_SEARCH_BYTE_OFFSET))
        put_number(report, offset, UM_SEARCH_BN, separator);
    if (has(report, UM_SEARCH_TAB) && text.size != 0 &&
        has(report, UM_SEARCH_FILENAME | UM_SEARCH_LINE_NUMBER | UM_SEARCH_BYTE_OFFSET))
        put_text(report, "\t");
    return true;
}

struct painting {
    const char *line, *match;
    char separator;
};

/* Print one match, and with --color the text before it. */
static bool put_match(struct um_report *report, struct um_slice match, const uint8_t *from,
                      const uint8_t *end, const struct painting *painting)
{
    if (has(report, UM_SEARCH_ONLY_MATCHING)) {
        char separator = has(report, UM_SEARCH_INVERT) ? '-' : ':';
        if (!put_head(report, match, end, separator))
            return false;
    } else {
        start_color(report, painting->line);
        put(report, from, (size_t)(match.data - from));
    }
    if (has(report, UM_SEARCH_RECORDS)) {
        put(report, match.data, match.size);
        return true;
    }
    start_color(report, painting->match);
    put(report, match.data, match.size);
    end_color(report, painting->match);
    if (has(report, UM_SEARCH_ONLY_MATCHING))
        put(report, &report->eol, 1);
    return true;
}

/* Print the matches of a line, and return what is left of it; NULL where it is not text. */
static const uint8_t *put_matches(struct um_report *report, struct um_slice line,
                                  const struct painting *painting)
{
    const uint8_t *at = line.data, *end = line.data + line.size, *held = NULL;
    while (at < end && report->error == 0) {
        struct um_slice match;
        int found = -ECANCELED;
        if (!um_matcher_is_canceled(report->matcher))
            found = um_matcher_match(report->matcher, line, (size_t)(at - line.data), &match);
        if (found < 0)
            report->error = found;
        if (found != 1 || match.data == end)
            break;
        size_t size = match.size;
        if (size == 0) {
            size = 1;
            held = held ? held : at;
        } else {
            const uint8_t *from = held ? held : at;
            if (!has(report, UM_SEARCH_ONLY_MATCHING))
                held = NULL;
            if (!put_match(report, match, from, end, painting))
                return NULL;
        }
        at = match.data + size;
    }
    if (has(report, UM_SEARCH_ONLY_MATCHING))
        return end;
    return held ? held : at;
}

/* Print the rest of a line in colour, but for its end. */
static const uint8_t *put_tail(struct um_report *report, const uint8_t *at, const uint8_t *end,
                               const char *parameters)
{
    size_t size = (size_t)(end - at), ending = 0;
    ending += size > 0 && end[-1] == report->eol;
    ending += size > ending && end[-1 - (ptrdiff_t)ending] == '\r';
    if (size > ending) {
        start_color(report, parameters);
        put(report, at, size - ending);
        end_color(report, parameters);
        at += size - ending;
    }
    return at;
}

/* Print a line, which was selected or is context. */
static void put_line(struct um_report *report, struct um_slice line, bool selected)
{
    const uint8_t *at = line.data, *end = line.data + line.size;
    bool invert = has(report, UM_SEARCH_INVERT), only = has(report, UM_SEARCH_ONLY_MATCHING);
    bool matching = selected != invert, colored = has(report, UM_SEARCH_COLOR);
    bool reverse = invert && has(report, UM_SEARCH_REVERSE);
    struct painting painting = {
        .line = color(report, selected != reverse ? UM_SEARCH_SL : UM_SEARCH_CX),
        .match = color(report, selected ? UM_SEARCH_MS : UM_SEARCH_MC),
        .separator = selected ? ':' : '-'};
    struct um_slice text = um_slice_of(line.data, line.size - 1);
    if (!only && !put_head(report, text, end, painting.separator))
        return;
    if (has(report, UM_SEARCH_RECORDS) && !only) {
        put(report, text.data, text.size);
        report->printed = end;
        return;
    }
    if ((only && matching) || (colored && (*painting.line || *painting.match))) {
        if (matching && (only || *painting.match)) {
            at = put_matches(report, line, &painting);
            if (at == NULL)
                return;
        }
        if (!only && *painting.line)
            at = put_tail(report, at, end, painting.line);
    }
    if (!only && end > at)
        put(report, at, (size_t)(end - at));
    report->printed = end;
}

/* Return the line at a place. */
static struct um_slice line_at(const struct um_report *report, const uint8_t *at)
{
    const uint8_t *last = rawmemchr(at, report->eol);
    return um_slice_of(at, (size_t)(last - at) + 1);
}

void um_report_pending(struct um_report *report, const uint8_t *end)
{
    if (report->printed == NULL)
        report->printed = report->buffer;
    for (; report->pending > 0 && report->printed < end && report->error == 0; report->pending--)
        put_line(report, line_at(report, report->printed), false);
}

/* Print the separator of two groups, unless the second one follows the first. */
static void put_separator(struct um_report *report, const uint8_t *group)
{
    const struct um_search_setup *setup = report->setup;
    if ((setup->before < 0 && setup->after < 0) || group == report->printed ||
        setup->separator == NULL || has(report, UM_SEARCH_RECORDS) ||
        (report->write != NULL && !report->any_group))
        return;
    size_t was = report->size;
    put_colored(report, UM_SEARCH_SE, setup->separator, strlen(setup->separator));
    put_text(report, "\n");
    if (!report->any_group)
        report->leading = report->size - was;
}

/* Print the context before a place, which is what *at is then behind. */
static void put_context(struct um_report *report, const uint8_t *text)
{
    const uint8_t *start = report->printed ? report->printed : report->buffer, *at = text;
    for (int64_t i = 0; i < report->setup->before && at > start; i++) {
        const uint8_t *before = memrchr(start, report->eol, (size_t)(at - 1 - start));
        at = before ? before + 1 : start;
    }
    put_separator(report, at);
    while (at < text && report->error == 0) {
        struct um_slice line = line_at(report, at);
        put_line(report, line, false);
        at = line.data + line.size;
    }
}

void um_report_text(struct um_report *report, struct um_slice lines)
{
    const uint8_t *at = lines.data, *end = lines.data + lines.size;
    if (report->quiet && !has(report, UM_SEARCH_INVERT)) {
        report->any_group = true;
        report->pending = 0;
        report->left--; /* it is one line */
        return;
    }
    if (!report->quiet && report->pending > 0)
        um_report_pending(report, at);
    if (!report->quiet)
        put_context(report, at);
    while (at < end && report->left > 0 && report->error == 0) {
        struct um_slice line = line_at(report, at);
        if (!report->quiet)
            put_line(report, line, true);
        at = line.data + line.size;
        report->left--;
    }
    report->pending =
        report->quiet || report->setup->after < 0 ? 0 : (uint64_t)report->setup->after;
    report->any_group = true;
}

/* ---- files --------------------------------------------------------------------------------------- */

int um_report_open(const struct um_search_setup *setup, struct um_matcher *matcher,
                   struct um_report *report)
{
    *report = (struct um_report){.setup = setup,
                                 .matcher = matcher,
                                 .eol = setup->flags & UM_SEARCH_NUL_DATA ? 0 : '\n',
                                 .limit = KEEP_MAX};
    return um_reserve((void **)&report->output, &report->capacity, 4096, 1);
}

void um_report_close(struct um_report *report)
{
    free(report->output);
    *report = (struct um_report){0};
}

void um_report_begin(struct um_report *report, struct um_slice prefix, struct um_slice name,
                     uint64_t size)
{
    uint32_t silent = UM_SEARCH_QUIET | UM_SEARCH_LIST | UM_SEARCH_LIST_OTHERS | UM_SEARCH_COUNT;
    report->begin = report->size;
    report->leading = 0;
    report->prefix = prefix;
    report->name = name;
    report->quiet = has(report, silent);
    report->any_group = report->bad_text = false;
    report->left = report->setup->max_count;
    report->pending = report->width = report->base = report->lines = 0;
    report->buffer = report->counted = report->printed = NULL;
    report->error = 0;
    if (has(report, UM_SEARCH_TAB)) {
        for (size += has(report, UM_SEARCH_LINE_NUMBER); size != 0 || report->width == 0;
             size /= 10)
            report->width++;
    }
}

void um_report_end(struct um_report *report, uint64_t selected)
{
    bool listed = has(report, UM_SEARCH_LIST) ? selected != 0
                                              : has(report, UM_SEARCH_LIST_OTHERS) && !selected;
    if (has(report, UM_SEARCH_RECORDS)) {
        if (has(report, UM_SEARCH_COUNT))
            put_record(report, UM_SEARCH_RECORD_COUNT, selected, 0, 0, true);
        if (listed)
            put_record(report, UM_SEARCH_RECORD_FILE, 0, 0, 0, true);
        return;
    }
    if (has(report, UM_SEARCH_COUNT)) {
        char text[32];
        put_name_before(report, ':');
        snprintf(text, sizeof text, "%" PRIu64 "\n", selected);
        put_text(report, text);
    }
    if (listed) {
        put_name(report);
        put(report, has(report, UM_SEARCH_NUL_NAME) ? "" : "\n", 1);
    }
}
