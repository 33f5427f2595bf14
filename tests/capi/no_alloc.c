/* What says that it allocates nothing allocates nothing, on no thread. Linked with the static
   library and --wrap for the functions below. */
#include <stdint.h>
#include <stdlib.h>

#include "check.h"

enum { INPUT = 300, CLASSES = 10, BATCH = 128 };

static size_t allocations; /* changed with atomic operations */

#define COUNTED(type, name, parameters, arguments)          \
    type __real_##name parameters;                          \
    type __wrap_##name parameters;                          \
    type __wrap_##name parameters {                         \
        __atomic_fetch_add(&allocations, 1, __ATOMIC_SEQ_CST); \
        return __real_##name arguments;                     \
    }

COUNTED(void *, malloc, (size_t size), (size))
COUNTED(void *, calloc, (size_t count, size_t size), (count, size))
COUNTED(void *, realloc, (void *memory, size_t size), (memory, size))
COUNTED(int, posix_memalign, (void **memory, size_t line, size_t size), (memory, line, size))

static size_t count(void) { return __atomic_load_n(&allocations, __ATOMIC_SEQ_CST); }

static void run(const tilewise_pool *pool) {
    static float x[BATCH * INPUT], logits[BATCH * CLASSES], values[5];
    static uint8_t images[BATCH * INPUT];
    static uint32_t labels[BATCH];
    const double scale = 0.004, shift = -0.5;
    const size_t dims[] = {INPUT, 500, CLASSES};
    const tilewise_normalization map = {&scale, &shift, 1};
    const tilewise_network network = {.dims = dims, .dims_len = 3, .dropout = 0.5};
    const tilewise_trainer_settings settings = {.batch_size = BATCH, .learning_rate = 0.01};
    const tilewise_operand_f32 a = {matrix(x, BATCH, INPUT, INPUT, 1), NULL};
    const tilewise_operand_f32 b = {matrix(x, INPUT, BATCH, 1, INPUT), NULL}; /* A transposed */
    const tilewise_matrix_mut_f32 out = matrix_mut(logits, BATCH, CLASSES, CLASSES, 1);
    static float square[BATCH * BATCH];
    const tilewise_matrix_mut_f32 c = matrix_mut(square, BATCH, BATCH, BATCH, 1);
    tilewise_optimizer_settings rule;
    tilewise_trainer *trainer;
    tilewise_predictor *predictor;
    tilewise_scratch *scratch;
    tilewise_gemm_f32 *gemm;
    size_t best[5], found;
    double loss;
    for (int i = 0; i < BATCH * INPUT; i++) x[i] = (float)(i % 7) / 7;
    OK(tilewise_optimizer_init("adam", &rule));
    OK(tilewise_trainer_create(&network, &rule, &settings, pool, &trainer));
    OK(tilewise_trainer_predictor(trainer, &map, &predictor));
    OK(tilewise_scratch_create(predictor, pool, BATCH / 2, &scratch));
    OK(tilewise_gemm_f32_create(pool, BATCH, BATCH, INPUT, &gemm));
    size_t before = count();
    for (int round = 0; round < 100; round++) {
        OK(tilewise_predict(predictor, scratch, &a.matrix, &out));
        OK(tilewise_predict_images(predictor, scratch, images, BATCH, &out));
        OK(tilewise_softmax(&out));
        OK(tilewise_top_k(logits, CLASSES, 5, best, values, &found));
        OK(tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, NULL));
        OK(tilewise_trainer_step(trainer, &a.matrix, labels, BATCH, &loss));
        OK(tilewise_trainer_set_learning_rate(trainer, 0.01));
    }
    size_t made = count() - before;
    if (made) printf("%zu allocations\n", made);
    CHECK(made == 0);
    tilewise_gemm_f32_destroy(gemm);
    tilewise_scratch_destroy(scratch);
    tilewise_predictor_destroy(predictor);
    tilewise_trainer_destroy(trainer);
}

int main(void) {
    size_t before = count();
    tilewise_pool *pool;
    OK(tilewise_pool_create(3, &pool));
    CHECK(count() > before); /* the counter counts */
    run(NULL);
    run(pool);
    tilewise_pool_destroy(pool);
    return verdict();
}
