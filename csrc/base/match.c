#include "base/match.h"

#include <fnmatch.h>

int um_match(const char *pattern, const char *name, int fold_case)
{
    return fnmatch(pattern, name, fold_case ? FNM_CASEFOLD : 0) == 0;
}
