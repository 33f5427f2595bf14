/* What the C test programs share: checks that count failures, and descriptions of matrices. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <string.h>

#include "tilewise.h"

static int failures;

/* A condition that must hold. */
#define CHECK(condition) check(condition, __LINE__, #condition)

/* A call that must give `status`, and unless that is OK a text that contains `part`. */
#define EXPECT(status, part, call) expect(TILEWISE_STATUS_##status, part, call, __LINE__, #call)

/* A call that must succeed. */
#define OK(call) EXPECT(OK, "", call)

static void check(int holds, int line, const char *text) {
    if (!holds) {
        failures++;
        printf("line %d: %s does not hold\n", line, text);
    }
}

static inline void expect(tilewise_status status, const char *part, tilewise_status found, int line,
                          const char *call) {
    const char *text = tilewise_last_error();
    if (found != status || (status != TILEWISE_STATUS_OK && !strstr(text, part))) {
        failures++;
        printf("line %d: %s\n", line, call);
        printf("    gave %d (%s), expected %d (\"%s\")\n", (int)found, text, (int)status, part);
    }
}

static inline tilewise_matrix_f32 matrix(const float *data, size_t rows, size_t cols,
                                         ptrdiff_t row_stride, ptrdiff_t col_stride) {
    tilewise_matrix_f32 m = {data, rows, cols, row_stride, col_stride};
    return m;
}

static inline tilewise_matrix_mut_f32 matrix_mut(float *data, size_t rows, size_t cols,
                                                 ptrdiff_t row_stride, ptrdiff_t col_stride) {
    tilewise_matrix_mut_f32 m = {data, rows, cols, row_stride, col_stride};
    return m;
}

/* To be returned by `main`. */
static int verdict(void) {
    if (failures) printf("%d checks failed\n", failures);
    return failures != 0;
}

#endif
