/* Trains the two-layer network 3072-200-10 on one batch of synthetic images and shows that the loss
   falls. In the repository:
   cargo rustc -p tilewise --lib --release --features capi --crate-type staticlib
   cc -I include examples/c/train.c target/release/libtilewise.a -lpthread -ldl -lm -o train */
#include <stdio.h>
#include <stdlib.h>

#include "tilewise.h"

enum { BATCH = 512, FEATURES = 3072, CLASSES = 10, STEPS = 20 };

static void must(tilewise_status status) {
    if (status == TILEWISE_STATUS_OK) return;
    fprintf(stderr, "status %d: %s\n", (int)status, tilewise_last_error());
    exit(1);
}
static float noise(void) { return (float)rand() / (float)RAND_MAX - 0.5f; }

int main(void) {
    if (!TILEWISE_ABI_MATCHES()) {
        fprintf(stderr, "compiled for ABI %d, the library tilewise %s has ABI %d: compile again\n",
                (int)TILEWISE_ABI_VERSION, tilewise_version(), (int)tilewise_abi_version());
        return 1;
    }
    static float x[BATCH * FEATURES], logits[BATCH * CLASSES];
    static uint32_t labels[BATCH];
    for (int i = 0; i < BATCH; i++) {
        labels[i] = (uint32_t)(i % CLASSES);
        for (int j = 0; j < FEATURES; j++) /* noise, and a brighter stripe for each class */
            x[i * FEATURES + j] = noise() + ((uint32_t)j % CLASSES == labels[i] ? 0.1f : 0);
    }
    const size_t dims[] = {FEATURES, 200, CLASSES};
    const tilewise_network network = {.dims = dims, .dims_len = 3};
    const tilewise_trainer_settings settings = {.batch_size = BATCH, .learning_rate = 0.03};
    const tilewise_matrix_f32 batch = {x, BATCH, FEATURES, FEATURES, 1};
    const tilewise_matrix_mut_f32 out = {logits, BATCH, CLASSES, CLASSES, 1};
    tilewise_optimizer_settings momentum;
    tilewise_pool *pool;
    tilewise_trainer *trainer;
    tilewise_predictor *predictor;
    tilewise_scratch *scratch;
    must(tilewise_pool_create(2, &pool));
    must(tilewise_optimizer_init("momentum", &momentum));
    must(tilewise_trainer_create(&network, &momentum, &settings, pool, &trainer));
    double losses[STEPS];
    for (int step = 0; step < STEPS; step++) {
        must(tilewise_trainer_step(trainer, &batch, labels, BATCH, &losses[step]));
        printf("step %2d: loss %.4f\n", step + 1, losses[step]);
    }
    must(tilewise_trainer_predictor(trainer, NULL, &predictor));
    must(tilewise_scratch_create(predictor, pool, BATCH, &scratch));
    must(tilewise_predict(predictor, scratch, &batch, &out));
    size_t best, found, correct = 0;
    for (size_t i = 0; i < BATCH; i++) {
        must(tilewise_top_k(logits + i * CLASSES, CLASSES, 1, &best, NULL, &found));
        correct += best == labels[i];
    }
    printf("%zu of %d correct\n", correct, BATCH);
    tilewise_scratch_destroy(scratch);
    tilewise_predictor_destroy(predictor);
    tilewise_trainer_destroy(trainer);
    tilewise_pool_destroy(pool);
    return !(losses[STEPS - 1] < losses[0] / 2);
}
