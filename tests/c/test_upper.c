#include "harness.h"
#include "upper_machine.h"

/* Random scripts, always the same: what the fuzzer does without end is done here for a moment. */

#define SCRIPT 1200

static uint64_t random_state;

static uint8_t random_byte(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint8_t)(random_state >> 56);
}

static int scratch(char *path, size_t size)
{
    const char *base = getenv("UM_TEST_SCRATCH");
    snprintf(path, size, "%s/um-upper-XXXXXX", base ? base : "/tmp");
    if (mkdtemp(path) == NULL)
        abort();
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void run_script(uint64_t seed, bool verbose)
{
    static struct machine machine;
    uint8_t script[SCRIPT];
    char path[256];
    random_state = seed;
    for (size_t i = 0; i < sizeof script; i++)
        script[i] = random_byte();
    int fd = scratch(path, sizeof path);
    machine = (struct machine){.verbose = verbose};
    machine.flags = geteuid() == 0 ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE;
    machine.flags |= UM_UPPER_VOLATILE;
    machine.metacopy_min = seed % 2;
    machine_layers(&machine.stack);
    machine_open(&machine, fd);
    machine_run(&machine, script, sizeof script, 1);
    machine_close(&machine);
    close(fd);
    rmdir(path);
}

TEST(random_scripts_do_what_a_plain_directory_does)
{
    const char *seed = getenv("UM_TEST_SEED");
    if (seed != NULL) {
        run_script(strtoull(seed, NULL, 10), true);
        return;
    }
    const char *count = getenv("UM_TEST_SCRIPTS");
    uint64_t n = count ? strtoull(count, NULL, 10) : 60;
    for (uint64_t i = 1; i <= n; i++) {
        fprintf(stderr, "\rscript %llu ", (unsigned long long)i);
        run_script(i, false);
    }
    fprintf(stderr, "\r");
    CHECK(n != 0);
}
