/* Makes random calls, right and wrong ones, and prints what came of each: what the error handlers
 * are told, or C. Two libraries that agree print the same. The arguments: the seed, and the number
 * of calls of each routine.
 *
 * Numbers are small and whole or halves, so that every sum is exact, or infinite, or NaN. With
 * OWN_CBLAS_HANDLER and OWN_FORTRAN_HANDLER the program has those handlers, and they return. What
 * the handlers of the BLAS print belongs to the transcript; as some of them end the program, the
 * arguments that they would be told of are right. */
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

static uint64_t state;

static int below(int limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)limit);
}

#if defined OWN_CBLAS_HANDLER || defined OWN_FORTRAN_HANDLER
extern int RowMajorStrg __attribute__((weak)), CBLAS_CallFromC __attribute__((weak));

static void print_variables(void) {
    printf(" [%d %d]", &RowMajorStrg ? RowMajorStrg : -1, &CBLAS_CallFromC ? CBLAS_CallFromC : -1);
}
#endif

#ifdef OWN_CBLAS_HANDLER
void cblas_xerbla(int position, const char *routine, const char *format, ...) {
    va_list arguments;
    printf(" cblas_xerbla %d '%s' ", position, routine);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    print_variables();
}
#endif

#ifdef OWN_FORTRAN_HANDLER
void xerbla_(const char *routine, const int *position, unsigned long length) {
    printf(" xerbla_ %d '%.*s'", *position, (int)length, routine);
    print_variables();
}
#endif

/* Which wrong arguments get to a handler of the program, which returns. */
#if defined OWN_CBLAS_HANDLER && defined OWN_FORTRAN_HANDLER
enum { WRONG_SETTINGS = 1, WRONG_NUMBERS = 1, WRONG_FORTRAN = 1 };
#elif defined OWN_CBLAS_HANDLER
enum { WRONG_SETTINGS = 1, WRONG_NUMBERS = 1, WRONG_FORTRAN = 0 };
#elif defined OWN_FORTRAN_HANDLER
enum { WRONG_SETTINGS = 0, WRONG_NUMBERS = 1, WRONG_FORTRAN = 1 };
#else
enum { WRONG_SETTINGS = 0, WRONG_NUMBERS = 0, WRONG_FORTRAN = 0 };
#endif

/* Once in `often` times the other value. */
static int or_wrong(int possible, int often, int right, int wrong) {
    int is_wrong = below(often) == 0;
    return possible && is_wrong ? wrong : right;
}

/* No layout, transpose or letter. */
static int illegal(void) {
    int value = below(256);
    return (value >= 101 && value <= 113) || (value && strchr("NnTtCc", value)) ? -1 : value;
}

/* A leading dimension for so many lines of this length: often the least one, now and then a large
 * one, or where it is not used, any. */
static int leading(int wrong, int lines, int length) {
    int least = length > 1 ? length : 1;
    int slack = below(4) ? below(3) : below(30) ? below(40) : below(3000);
    if (least > INT_MAX - slack || (lines < 2 && below(10) == 0)) slack = INT_MAX - least;
    return or_wrong(wrong, 12, least + slack, least - 1 - below(2) * below(4));
}

/* The numbers from the first to the last one of these lines. */
static size_t extent(int lines, int length, int step) {
    return lines > 0 && length > 0 ? (size_t)(lines - 1) * step + length : 0;
}

#define NAME(word, real) NAME_(word, real)
#define NAME_(word, real) word##_##real

#define REAL float
#define BITS uint32_t
#define TINY FLT_TRUE_MIN
#define CBLAS cblas_sgemm
#define FORTRAN sgemm_
#include "transcript.h"
#undef REAL
#undef BITS
#undef TINY
#undef CBLAS
#undef FORTRAN

#define REAL double
#define BITS uint64_t
#define TINY DBL_TRUE_MIN
#define CBLAS cblas_dgemm
#define FORTRAN dgemm_
#include "transcript.h"

int main(int count, char **arguments) {
    if (count != 3) return 2;
    state = strtoul(arguments[1], NULL, 10);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int calls = atoi(arguments[2]); calls > 0; calls--)
        for (int fortran = 0; fortran < 2; fortran++) {
            call_float(fortran);
            call_double(fortran);
        }
    printf("the end\n");
    return 0;
}
