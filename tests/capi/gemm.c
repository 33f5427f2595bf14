/* Products of both element types against plain loops: all layouts, epilogues, operands packed or
   not, on the calling thread and on pools. */
#include <math.h>
#include <stdlib.h>

#include "check.h"

/* How a matrix lies in memory: by rows with a gap, by columns, by rows from the last to the
   first. */
enum { BY_ROWS, BY_COLUMNS, UPSIDE_DOWN, LAYOUTS };

#define REAL float
#define NAME(x) x##_f32
#define TYPE(x) tilewise_##x##_f32
#define GEMM(x) tilewise_gemm_f32_##x
#define PACK(x) tilewise_pack_##x##_f32
#define PACKED_DESTROY tilewise_packed_f32_destroy
#include "products.h"
#undef REAL
#undef NAME
#undef TYPE
#undef GEMM
#undef PACK
#undef PACKED_DESTROY

#define REAL double
#define NAME(x) x##_f64
#define TYPE(x) tilewise_##x##_f64
#define GEMM(x) tilewise_gemm_f64_##x
#define PACK(x) tilewise_pack_##x##_f64
#define PACKED_DESTROY tilewise_packed_f64_destroy
#include "products.h"

int main(void) {
    tilewise_pool *pools[3] = {NULL};
    const char *set = NULL;
    OK(tilewise_instruction_set(&set));
    printf("tilewise %s on %s\n", tilewise_version(), set);
    OK(tilewise_pool_create(1, &pools[1]));
    OK(tilewise_pool_create(3, &pools[2]));
    const size_t sizes[][3] = {
        {1, 1, 1}, {7, 13, 5}, {64, 64, 64}, {130, 10, 33}, {1, 300, 40}, {200, 300, 150}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_f32(sizes[i][0], sizes[i][1], sizes[i][2], pools);
        size_f64(sizes[i][0], sizes[i][1], sizes[i][2], pools);
    }
    tilewise_pool_destroy(pools[1]);
    tilewise_pool_destroy(pools[2]);
    return verdict();
}
