#include "system/directory_stream.h"

int um_directory_stream(int fd, DIR **stream)
{
    *stream = fdopendir(fd);
    if (*stream != NULL)
        return 0;
    int error = -errno;
    close(fd);
    return error;
}

int um_directory_next(DIR *stream, struct dirent **entry)
{
    do {
        errno = 0;
        *entry = readdir(stream);
        if (*entry == NULL)
            return -errno;
    } while (um_slice_is_dots(um_slice_text((*entry)->d_name)));
    return 1;
}
