/* Compares the products of a BLAS with loops, in every layout, and says where its routines are
 * from. Numbers are small and whole or halves, so that every sum is exact. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

static int below(uint64_t *state, int limit) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int)((*state >> 33) % (uint64_t)limit);
}

/* A matrix as it lies in memory: `lines` of `length` elements, `leading` elements apart. */
struct place {
    int lines, length, leading;
};

static struct place place(uint64_t *state, int by_rows, int rows, int cols) {
    struct place place = {by_rows ? rows : cols, by_rows ? cols : rows, 0};
    place.leading = (place.length > 0 ? place.length : 1) + below(state, 4);
    return place;
}

/* Elements up to the last one of the last line: what stands behind is not ours. */
static size_t extent(struct place place) {
    if (place.lines == 0 || place.length == 0) return 0;
    return (size_t)(place.lines - 1) * place.leading + place.length;
}

static size_t at(struct place place, int by_rows, int row, int col) {
    return by_rows ? (size_t)row * place.leading + col : (size_t)col * place.leading + row;
}

static int failures;

#define NAME(word, real) NAME_(word, real)
#define NAME_(word, real) word##_##real

#define REAL float
#define CBLAS cblas_sgemm
#define FORTRAN sgemm_
#include "products.h"
#undef REAL
#undef CBLAS
#undef FORTRAN

#define REAL double
#define CBLAS cblas_dgemm
#define FORTRAN dgemm_
#include "products.h"

static void *cases(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed;
    for (int count = 0; count < 1500; count++) {
        int limit = count % 300 == 0 ? 400 : count % 3 ? 20 : 70;
        product_float(&state, limit);
        product_double(&state, limit);
    }
    return NULL;
}

static void origin(const char *name, void *routine) {
    Dl_info info;
    printf("%s from %s\n", name, dladdr(routine, &info) ? info.dli_fname : "nowhere");
}

int main(void) {
    origin("cblas_sgemm", (void *)cblas_sgemm);
    origin("cblas_dgemm", (void *)cblas_dgemm);
    origin("sgemm_", (void *)sgemm_);
    origin("dgemm_", (void *)dgemm_);
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++) pthread_create(&threads[i], NULL, cases, (void *)(i + 1));
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    printf("%s\n", failures ? "wrong products" : "all products are right");
    return failures != 0;
}
