#include "tar/write.h"

#include <sys/stat.h>

#define NAME_ROOM 100u
#define MOST_7_DIGITS 07777777u
#define MOST_11_DIGITS 077777777777ull
#define NANO 1000000000u
#define DECIMAL_ROOM 40u /* of a time in a pax record: sign, 19 digits, point, 9 digits */

/* Offsets of the fields of a block, and their widths where they are numbers. */
enum {
    MODE = 100,
    UID = 108,
    GID = 116,
    SIZE = 124,
    MTIME = 136,
    CHECKSUM = 148,
    TYPE = 156,
    LINK = 157,
    MAGIC = 257,
    MAJOR = 329,
    MINOR = 337,
    SHORT = 8,
    LONG = 12,
};

static const char PAX_NAME[] = "PaxHeaders.0/";

/* The value of a pax record: two runs of bytes, one after the other. */
struct value {
    struct um_slice first, second;
};

/* The pax records of a member. */
struct records {
    char time[DECIMAL_ROOM];
    struct value mtime, path, linkpath; /* of size 0: none */
    size_t size;
};

/* ---- numbers ------------------------------------------------------------------------------------- */

static void put_octal(uint8_t *field, size_t width, uint64_t value)
{
    field[width - 1] = '\0';
    for (size_t i = width - 1; i-- > 0; value >>= 3)
        field[i] = (uint8_t)('0' + (value & 7));
}

static size_t digits_of(size_t value)
{
    size_t n = 1;
    for (; value > 9; value /= 10)
        n++;
    return n;
}

/* Print seconds with a fraction, without zeros at its end. */
static size_t print_time(int64_t seconds, uint32_t nsec, char *out)
{
    uint64_t whole = seconds < 0 ? -(uint64_t)seconds : (uint64_t)seconds;
    if (seconds < 0 && nsec != 0) {
        whole--;
        nsec = NANO - nsec;
    }
    int n = snprintf(out, DECIMAL_ROOM, "%s%llu.%09u", seconds < 0 ? "-" : "",
                     (unsigned long long)whole, nsec);
    size_t size = (size_t)n;
    while (out[size - 1] == '0')
        size--;
    return out[size - 1] == '.' ? size - 1 : size;
}

/* ---- pax records --------------------------------------------------------------------------------- */

static size_t size_of_value(const struct value *value)
{
    return value->first.size + value->second.size;
}

/* Return the size of the record "LENGTH KEY=VALUE\n"; the length includes its own digits. */
static size_t record_size(const char *key, const struct value *value)
{
    size_t rest = strlen(key) + size_of_value(value) + 3;
    size_t size = rest + digits_of(rest);
    return rest + digits_of(size);
}

static uint8_t *append(uint8_t *out, struct um_slice text)
{
    if (text.size != 0)
        memcpy(out, text.data, text.size);
    return out + text.size;
}

static uint8_t *put_record(uint8_t *out, const char *key, const struct value *value)
{
    if (size_of_value(value) == 0)
        return out;
    char length[DECIMAL_ROOM];
    int n = snprintf(length, sizeof length, "%zu ", record_size(key, value));
    out = append(out, um_slice_of(length, (size_t)n));
    out = append(out, um_slice_text(key));
    *out++ = '=';
    out = append(append(out, value->first), value->second);
    *out++ = '\n';
    return out;
}

static void find_records(const struct um_tar_member *member, struct records *records)
{
    *records = (struct records){0};
    if (member->mtime < 0 || (uint64_t)member->mtime > MOST_11_DIGITS || member->mtime_nsec != 0) {
        size_t size = print_time(member->mtime, member->mtime_nsec, records->time);
        records->mtime.first = um_slice_of(records->time, size);
        records->size += record_size("mtime", &records->mtime);
    }
    if (member->directory.size + member->name.size > NAME_ROOM) {
        records->path = (struct value){member->directory, member->name};
        records->size += record_size("path", &records->path);
    }
    if (member->target.size > NAME_ROOM) {
        records->linkpath.first = member->target;
        records->size += record_size("linkpath", &records->linkpath);
    }
}

/* ---- blocks -------------------------------------------------------------------------------------- */

/* Copy as much as fits into a field. */
static void put_text(uint8_t *field, struct um_slice first, struct um_slice second)
{
    size_t size = first.size < NAME_ROOM ? first.size : NAME_ROOM;
    field = append(field, um_slice_of(first.data, size));
    size_t rest = NAME_ROOM - size;
    append(field, um_slice_of(second.data, second.size < rest ? second.size : rest));
}

static void put_block(uint8_t *block, const struct um_tar_member *member, uint8_t type)
{
    memset(block, 0, UM_TAR_BLOCK_SIZE);
    put_text(block, member->directory, member->name);
    put_octal(block + MODE, SHORT, member->mode & 07777);
    put_octal(block + UID, SHORT, member->uid);
    put_octal(block + GID, SHORT, member->gid);
    put_octal(block + SIZE, LONG, member->size);
    uint64_t mtime = member->mtime < 0 ? 0 : (uint64_t)member->mtime;
    put_octal(block + MTIME, LONG, mtime > MOST_11_DIGITS ? 0 : mtime);
    memset(block + CHECKSUM, ' ', SHORT);
    block[TYPE] = type;
    put_text(block + LINK, member->target, (struct um_slice){0});
    memcpy(block + MAGIC, "ustar\00000", SHORT);
    put_octal(block + MAJOR, SHORT, 0);
    put_octal(block + MINOR, SHORT, 0);
    uint32_t sum = 0;
    for (size_t i = 0; i < UM_TAR_BLOCK_SIZE; i++)
        sum += block[i];
    put_octal(block + CHECKSUM, SHORT - 1, sum); /* and a blank */
}

static void put_pax_header(uint8_t *out, const struct um_tar_member *member,
                           const struct records *records)
{
    const struct um_tar_member around = {
        .directory = UM_SLICE_LITERAL(PAX_NAME),
        .name = member->name,
        .mode = 0644,
        .size = records->size,
    };
    put_block(out, &around, 'x');
    uint8_t *end = put_record(out + UM_TAR_BLOCK_SIZE, "mtime", &records->mtime);
    end = put_record(end, "path", &records->path);
    end = put_record(end, "linkpath", &records->linkpath);
    memset(end, 0, um_tar_padding(records->size));
}

int64_t um_tar_write_header(const struct um_tar_member *member, uint8_t *out, size_t room)
{
    bool is_file = S_ISREG(member->mode), is_link = S_ISLNK(member->mode);
    if ((!is_file && !is_link) || member->uid > MOST_7_DIGITS || member->gid > MOST_7_DIGITS ||
        member->size > MOST_11_DIGITS || member->mtime_nsec >= NANO)
        return 0;
    struct records records;
    find_records(member, &records);
    size_t pax = 0;
    if (records.size != 0)
        pax = UM_TAR_BLOCK_SIZE + records.size + um_tar_padding(records.size);
    if (room < UM_TAR_BLOCK_SIZE || room - UM_TAR_BLOCK_SIZE < pax)
        return -ENOBUFS;
    if (pax != 0)
        put_pax_header(out, member, &records);
    put_block(out + pax, member, is_file ? '0' : '2');
    return (int64_t)(pax + UM_TAR_BLOCK_SIZE);
}
