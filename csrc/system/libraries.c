#include "system/libraries.h"

#include <dlfcn.h>
#include <link.h>

static const char *string_table(const struct link_map *map)
{
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        /* glibc has relocated the address on most machines; others leave it as it is in the file. */
        if (entry->d_tag == DT_STRTAB)
            return (const char *)(entry->d_un.d_ptr < map->l_addr ? map->l_addr + entry->d_un.d_ptr
                                                                  : entry->d_un.d_ptr);
    }
    return NULL;
}

/* Each is loaded already, on behalf of the object; one more reference keeps it. */
static int keep_needed(const struct link_map *map)
{
    const char *strings = string_table(map);
    int error = strings ? 0 : -ENOEXEC;
    for (const ElfW(Dyn) *entry = map->l_ld; error == 0 && entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_NEEDED &&
            dlopen(strings + entry->d_un.d_val, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD) == NULL)
            error = -ENOEXEC;
    }
    return error;
}

int um_libraries_keep(const char *path)
{
    struct link_map *map;
    void *object = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (object == NULL)
        return -ENOEXEC;
    int error = dlinfo(object, RTLD_DI_LINKMAP, &map) == 0 ? keep_needed(map) : -ENOEXEC;
    dlclose(object);
    return error;
}
