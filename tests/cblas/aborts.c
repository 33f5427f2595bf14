/* A product of 2000 by 2000 with so little memory left as the argument says, in MiB. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "blas.h"

enum { SIZE = 2000 };

int main(int count, char **arguments) {
    (void)count;
    float *a = calloc(SIZE * SIZE, sizeof *a), *c = calloc(SIZE * SIZE, sizeof *c);
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages;
    if (!file || fscanf(file, "%lu", &pages) != 1) return 1;
    fclose(file);
    rlim_t limit = pages * 4096 + strtoul(arguments[1], NULL, 10) * 1024 * 1024;
    struct rlimit limits = {limit, limit};
    if (setrlimit(RLIMIT_AS, &limits) != 0) return 2;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, SIZE, SIZE, SIZE, 1, a, SIZE, a, SIZE, 0,
                c, SIZE);
    return 0;
}
