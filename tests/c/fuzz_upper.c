/*
 * Operations on an upper and on a plain directory (upper_machine.h). Input: the bytes of a script. The
 * first says with which flags: marks under trusted. or user., owners on disk, in override_stat, or both.
 */
#include "upper_machine.h"

#define SCRIPT_MAX 4000

static const char *scratch_base(void)
{
    const char *base = getenv("UM_TEST_SCRATCH");
    return base ? base : "/dev/shm";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine machine;
    char path[256];
    if (size < 2 || size > SCRIPT_MAX)
        return -1;
    snprintf(path, sizeof path, "%s/um-fuzz-XXXXXX", scratch_base());
    if (mkdtemp(path) == NULL)
        abort();
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    machine = (struct machine){.flags = UM_UPPER_VOLATILE};
    bool plain = geteuid() == 0 && !(data[0] & 1);
    machine.flags |= plain ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE;
    machine.flags |= data[0] & 4 ? UM_UPPER_STAT | UM_UPPER_STAT_FUSE : 0;
    machine.metacopy_min = (data[0] >> 1) & 1;
    machine_layers(&machine.stack);
    machine_open(&machine, fd);
    machine_run(&machine, data + 1, size - 1, 0);
    machine_close(&machine);
    close(fd);
    rmdir(path);
    return 0;
}
