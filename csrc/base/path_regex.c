#include "base/path_regex.h"

#include <limits.h>
#include <regex.h>

struct um_path_regex {
    struct re_pattern_buffer buffer;
};

static const struct {
    const char *name;
    reg_syntax_t syntax;
} SYNTAXES[] = {
    {"findutils-default", RE_SYNTAX_EMACS | RE_DOT_NEWLINE},
    {"ed", RE_SYNTAX_ED},
    {"emacs", RE_SYNTAX_EMACS},
    {"gnu-awk", RE_SYNTAX_GNU_AWK},
    {"grep", RE_SYNTAX_GREP},
    {"posix-awk", RE_SYNTAX_POSIX_AWK},
    {"awk", RE_SYNTAX_AWK},
    {"posix-basic", RE_SYNTAX_POSIX_BASIC},
    {"posix-egrep", RE_SYNTAX_POSIX_EGREP},
    {"egrep", RE_SYNTAX_EGREP},
    {"posix-extended", RE_SYNTAX_POSIX_EXTENDED},
    {"posix-minimal-basic", RE_SYNTAX_POSIX_MINIMAL_BASIC},
    {"sed", RE_SYNTAX_SED},
};

static bool find_syntax(const char *name, reg_syntax_t *syntax)
{
    for (size_t i = 0; i < sizeof SYNTAXES / sizeof SYNTAXES[0]; i++) {
        if (strcmp(SYNTAXES[i].name, name) == 0) {
            *syntax = SYNTAXES[i].syntax;
            return true;
        }
    }
    return false;
}

int um_path_regex_open(const char *syntax, const char *pattern, size_t size, int fold_case,
                       struct um_path_regex **out, const char **message)
{
    reg_syntax_t flags;
    *message = NULL;
    if (!find_syntax(syntax, &flags))
        return -EINVAL;
    struct um_path_regex *regex = calloc(1, sizeof *regex);
    if (regex == NULL)
        return -ENOMEM;
    re_set_syntax(flags | (fold_case ? RE_ICASE : 0));
    *message = re_compile_pattern(pattern, size, &regex->buffer);
    if (*message != NULL) {
        um_path_regex_close(regex);
        return -EINVAL;
    }
    *out = regex;
    return 0;
}

void um_path_regex_close(struct um_path_regex *regex)
{
    if (regex == NULL)
        return;
    regfree(&regex->buffer);
    free(regex);
}

int um_path_regex_matches(struct um_path_regex *regex, const char *path, size_t size)
{
    if (size > INT_MAX)
        return 0;
    return re_match(&regex->buffer, path, (int)size, 0, NULL) == (regoff_t)size;
}
