/* Training and prediction against those of a Rust program: tests/capi.rs trains a network with the
   settings below and leaves its inputs, losses, model file and logits in a directory; everything
   must have the same bits here. Usage: network DIR. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"

enum { INPUT = 147, CLASSES = 11, BATCH = 256, STEPS = 6, THREADS = 8, ROUNDS = 20 };

static const char *dir;
static float x[BATCH * INPUT], logits[BATCH * CLASSES], image_logits[BATCH * CLASSES];
static float residual_logits[BATCH * CLASSES], bf16_logits[BATCH * CLASSES];
static uint8_t images[BATCH * INPUT];
static uint32_t labels[BATCH];
static double losses[STEPS], residual_losses[STEPS], bf16_losses[STEPS];

static const char *in_dir(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* Reads a file of at most `size` bytes and returns how many it has. */
static size_t read_file(const char *name, void *to, size_t size) {
    FILE *file = fopen(in_dir(name), "rb");
    if (!file) {
        perror(name);
        exit(1);
    }
    size_t len = fread(to, 1, size, file);
    CHECK(fgetc(file) == EOF);
    fclose(file);
    return len;
}

#define READ(name, array) CHECK(read_file(name, array, sizeof array) == sizeof array)

static const double scale[3] = {1.0 / 256, 1.0 / 128, 1.0 / 512}, shift[3] = {-0.5, 0.25, 0};
static const tilewise_normalization normalization = {scale, shift, 3};

/* A trainer as that of the Rust program. */
static tilewise_trainer *create(const tilewise_pool *pool, double learning_rate) {
    const size_t dims[] = {INPUT, 400, 50, CLASSES};
    const tilewise_network network = {.dims = dims,
                                      .dims_len = 4,
                                      .init = TILEWISE_INIT_XAVIER,
                                      .dropout = 0.25,
                                      .seed = 7};
    const tilewise_trainer_settings settings = {.batch_size = BATCH,
                                                .learning_rate = learning_rate,
                                                .label_smoothing = 0.1,
                                                .l2 = 1e-4,
                                                .clip_norm = 1};
    tilewise_optimizer_settings rule;
    tilewise_trainer *trainer;
    OK(tilewise_optimizer_init("nesterov", &rule));
    OK(tilewise_trainer_create(&network, &rule, &settings, pool, &trainer));
    return trainer;
}

/* Trains as the Rust program did, with an interruption: another trainer continues from a checkpoint
   after `interrupted` steps. */
static tilewise_trainer *train(const tilewise_pool *pool, int interrupted) {
    tilewise_trainer *trainer = create(pool, 0.1);
    const tilewise_matrix_f32 rows = matrix(x, BATCH, INPUT, INPUT, 1);
    for (int step = 0; step < STEPS; step++) {
        double loss = 0;
        if (step == interrupted) {
            const char *path = in_dir("checkpoint");
            uint64_t steps;
            OK(tilewise_trainer_save_checkpoint(trainer, path));
            tilewise_trainer_destroy(trainer);
            trainer = create(pool, 77);
            OK(tilewise_trainer_load_checkpoint(trainer, path));
            OK(tilewise_trainer_steps(trainer, &steps));
            CHECK(steps == (uint64_t)step);
        }
        if (step == STEPS / 2) OK(tilewise_trainer_set_learning_rate(trainer, 0.05));
        OK(tilewise_trainer_step(trainer, &rows, labels, BATCH, &loss));
        CHECK(loss == losses[step]);
    }
    return trainer;
}

typedef struct {
    const tilewise_predictor *predictor;
    const tilewise_pool *pool;
    size_t capacity;
    float *out; /* its part of each row of a matrix that another job writes to as well */
    int wrong;
} Job;

/* Whether every other run of CLASSES numbers, from `rows` on, has the bits of `expected`. */
static int equal(const float *rows, const float *expected) {
    for (int i = 0; i < BATCH; i++) {
        size_t bytes = CLASSES * sizeof *rows;
        if (memcmp(rows + 2 * i * CLASSES, expected + i * CLASSES, bytes)) return 0;
    }
    return 1;
}

/* Predicts again and again, from numbers and from bytes. */
static void *predict(void *argument) {
    Job *job = argument;
    tilewise_scratch *scratch;
    const tilewise_matrix_f32 rows = matrix(x, BATCH, INPUT, INPUT, 1);
    const tilewise_matrix_mut_f32 to = matrix_mut(job->out, BATCH, CLASSES, 2 * CLASSES, 1);
    if (tilewise_scratch_create(job->predictor, job->pool, job->capacity, &scratch)) {
        job->wrong = ROUNDS;
        return NULL;
    }
    for (int round = 0; round < ROUNDS; round++) {
        int failed = tilewise_predict(job->predictor, scratch, &rows, &to) != TILEWISE_STATUS_OK;
        failed |= !equal(job->out, logits);
        failed |= tilewise_predict_images(job->predictor, scratch, images, BATCH, &to) != 0;
        failed |= !equal(job->out, image_logits);
        job->wrong += failed;
    }
    tilewise_scratch_destroy(scratch);
    return NULL;
}

/* Many threads share a predictor, some of them a pool too, and two each the rows of a matrix. */
static void share(const tilewise_predictor *predictor, const tilewise_pool *pool) {
    pthread_t threads[THREADS];
    Job jobs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        float *out = i % 2 ? jobs[i - 1].out + CLASSES : malloc(2 * sizeof logits);
        jobs[i] = (Job){predictor, i % 2 ? pool : NULL, (size_t)(1 + 40 * i), out, 0};
        CHECK(pthread_create(&threads[i], NULL, predict, &jobs[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(jobs[i].wrong == 0);
    }
    for (int i = 0; i < THREADS; i += 2) free(jobs[i].out);
}

/* Trains and predicts in bf16, as the Rust program did. */
static void bf16(const char *path, const tilewise_pool *pool,
                 const tilewise_optimizer_settings *rule) {
    const tilewise_trainer_settings settings = {
        .batch_size = BATCH, .learning_rate = 0.1, .precision = TILEWISE_PRECISION_BF16};
    const tilewise_matrix_f32 rows = matrix(x, BATCH, INPUT, INPUT, 1);
    float *out = malloc(sizeof bf16_logits);
    const tilewise_matrix_mut_f32 to = matrix_mut(out, BATCH, CLASSES, CLASSES, 1);
    tilewise_trainer *trainer;
    tilewise_scratch *scratch;
    OK(tilewise_trainer_create_from_file(path, 9, rule, &settings, pool, &trainer));
    for (int step = 0; step < STEPS; step++) {
        double loss = 0;
        OK(tilewise_trainer_step(trainer, &rows, labels, BATCH, &loss));
        CHECK(loss == bf16_losses[step]);
    }
    /* Its predictor, and two of files; weights in bf16 lose no bits. */
    tilewise_predictor *predictors[3], *whole;
    OK(tilewise_trainer_predictor(trainer, NULL, &predictors[0]));
    OK(tilewise_trainer_save(trainer, in_dir("bf16.safetensors"), NULL));
    OK(tilewise_predictor_load(in_dir("bf16.safetensors"), NULL, &predictors[1]));
    OK(tilewise_predictor_load_in(in_dir("bf16.safetensors"), NULL, TILEWISE_PRECISION_F32, &whole));
    OK(tilewise_trainer_save_in(trainer, in_dir("bf16.safetensors"), NULL, TILEWISE_PRECISION_BF16));
    OK(tilewise_predictor_load_in(in_dir("bf16.safetensors"), NULL, TILEWISE_PRECISION_BF16,
                                  &predictors[2]));
    tilewise_trainer_destroy(trainer);
    int32_t precision;
    OK(tilewise_predictor_precision(whole, &precision));
    CHECK(precision == TILEWISE_PRECISION_F32);
    tilewise_predictor_destroy(whole);
    OK(tilewise_scratch_create(predictors[0], pool, 100, &scratch));
    for (int i = 0; i < 3; i++) {
        OK(tilewise_predictor_precision(predictors[i], &precision));
        CHECK(precision == TILEWISE_PRECISION_BF16);
        memset(out, 0, sizeof bf16_logits);
        OK(tilewise_predict(predictors[i], scratch, &rows, &to));
        CHECK(memcmp(out, bf16_logits, sizeof bf16_logits) == 0);
        tilewise_predictor_destroy(predictors[i]);
    }
    tilewise_scratch_destroy(scratch);
    free(out);
}

/* A network of images that ends in a residual block, from a file that Rust wrote: what it predicts,
   and how it trains from there. */
static void residual(const tilewise_pool *pool) {
    const char *path = in_dir("residual.safetensors");
    const tilewise_matrix_f32 rows = matrix(x, BATCH, INPUT, INPUT, 1);
    float *out = malloc(sizeof logits);
    const tilewise_matrix_mut_f32 to = matrix_mut(out, BATCH, CLASSES, CLASSES, 1);
    tilewise_predictor *predictor;
    tilewise_scratch *scratch;
    tilewise_shape input;
    OK(tilewise_predictor_load(path, NULL, &predictor));
    OK(tilewise_predictor_input(predictor, &input));
    CHECK(input.features == INPUT && input.height == 7 && input.width == 7 && input.channels == 3);
    OK(tilewise_scratch_create(predictor, pool, 100, &scratch));
    OK(tilewise_predict(predictor, scratch, &rows, &to));
    CHECK(memcmp(out, residual_logits, sizeof residual_logits) == 0);
    tilewise_scratch_destroy(scratch);
    tilewise_predictor_destroy(predictor);
    free(out);

    const tilewise_trainer_settings settings = {.batch_size = BATCH, .learning_rate = 0.1};
    tilewise_optimizer_settings rule;
    tilewise_trainer *trainer;
    OK(tilewise_optimizer_init("momentum", &rule));
    OK(tilewise_trainer_create_from_file(path, 9, &rule, &settings, pool, &trainer));
    for (int step = 0; step < STEPS; step++) {
        double loss = 0;
        OK(tilewise_trainer_step(trainer, &rows, labels, BATCH, &loss));
        CHECK(loss == residual_losses[step]);
    }
    tilewise_trainer_destroy(trainer);
    bf16(path, pool, &rule);
}

/* Probabilities sum to 1 and keep the order; the best come first. */
static void rank(void) {
    float *p = malloc(sizeof logits);
    memcpy(p, logits, sizeof logits);
    const tilewise_matrix_mut_f32 rows = matrix_mut(p, BATCH, CLASSES, CLASSES, 1);
    OK(tilewise_softmax(&rows));
    for (size_t i = 0; i < BATCH; i++) {
        float sum = 0, values[3];
        size_t best[CLASSES + 1], top[3], found;
        for (size_t j = 0; j < CLASSES; j++) sum += p[i * CLASSES + j];
        CHECK(sum > 0.9999f && sum < 1.0001f);
        OK(tilewise_top_k(p + i * CLASSES, CLASSES, 3, top, values, &found));
        CHECK(found == 3 && values[2] == p[i * CLASSES + top[2]]);
        OK(tilewise_top_k(p + i * CLASSES, CLASSES, CLASSES + 1, best, NULL, &found));
        CHECK(found == CLASSES && memcmp(best, top, sizeof top) == 0);
        for (size_t j = 1; j < CLASSES; j++)
            CHECK(p[i * CLASSES + best[j - 1]] >= p[i * CLASSES + best[j]]);
    }
    free(p);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    dir = argv[1];
    READ("x", x);
    READ("images", images);
    READ("labels", labels);
    READ("losses", losses);
    READ("logits", logits);
    READ("image_logits", image_logits);
    READ("residual_logits", residual_logits);
    READ("residual_losses", residual_losses);
    READ("bf16_losses", bf16_losses);
    READ("bf16_logits", bf16_logits);

    tilewise_pool *pool;
    tilewise_predictor *predictor, *loaded;
    OK(tilewise_pool_create(3, &pool));
    /* Before and after the change of the learning rate, which a checkpoint has. */
    tilewise_trainer_destroy(train(NULL, 2));
    tilewise_trainer *trainer = train(pool, 4);
    OK(tilewise_trainer_predictor(trainer, &normalization, &predictor));
    OK(tilewise_trainer_save(trainer, in_dir("c.safetensors"), &normalization));
    static char ours[1 << 20], theirs[1 << 20];
    size_t len = read_file("c.safetensors", ours, sizeof ours);
    CHECK(read_file("model.safetensors", theirs, sizeof theirs) == len);
    CHECK(memcmp(ours, theirs, len) == 0);
    tilewise_trainer_destroy(trainer);
    tilewise_trainer_destroy(train(NULL, -1));

    OK(tilewise_predictor_load(in_dir("model.safetensors"), NULL, &loaded));
    tilewise_shape input;
    size_t classes;
    int32_t takes;
    OK(tilewise_predictor_input(loaded, &input));
    OK(tilewise_predictor_classes(loaded, &classes));
    OK(tilewise_predictor_takes_images(loaded, &takes));
    CHECK(input.features == INPUT && input.height == 0 && input.width == 0 && input.channels == 0);
    CHECK(classes == CLASSES && takes == 1);
    share(predictor, pool);
    share(loaded, pool);
    residual(pool);
    residual(NULL);
    rank();

    /* In any order: a scratch outlives predictor and pool, and serves the next predictor. */
    tilewise_scratch *scratch;
    OK(tilewise_scratch_create(predictor, pool, BATCH, &scratch));
    tilewise_predictor_destroy(predictor);
    tilewise_pool_destroy(pool);
    static float out[BATCH * CLASSES];
    const tilewise_matrix_f32 rows = matrix(x, BATCH, INPUT, INPUT, 1);
    const tilewise_matrix_mut_f32 to = matrix_mut(out, BATCH, CLASSES, CLASSES, 1);
    OK(tilewise_predict(loaded, scratch, &rows, &to));
    CHECK(memcmp(out, logits, sizeof logits) == 0);
    tilewise_predictor_destroy(loaded);
    tilewise_scratch_destroy(scratch);
    return verdict();
}
