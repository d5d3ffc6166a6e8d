/* Prints the effective user. busybox itself gives up what set-user-ID bits give. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("%d\n", (int)geteuid());
}
