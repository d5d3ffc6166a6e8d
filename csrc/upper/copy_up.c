#include "upper/state.h"

int um_record_raise(struct um_upper *upper, struct um_record *record, enum um_need need)
{
    return record->directory ? um_copy_up_directory(upper, record)
                             : um_copy_up_now(upper, record, need);
}

void um_record_rest(struct um_upper *upper, struct um_record *record)
{
    um_record_demote(upper, record);
    um_record_unpin(upper, record);
}
