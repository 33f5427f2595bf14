/* Bad input through every function: a status, a text that names it, and outputs as they were.
   Usage: border DIR, a directory to write files to. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"

static const char *dir;

/* The path of a file in the directory. */
static const char *in_dir(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* An address that is not a multiple of anything. */
static void *odd(void *address) { return (char *)address + 1; }

/* The sizes of what callers fill in, for pointers of 8 bytes: a number that has to change here says
   that TILEWISE_ABI_VERSION has to change as well. */
static void abi(void) {
    CHECK(TILEWISE_ABI_MATCHES() && tilewise_abi_version() == TILEWISE_ABI_VERSION);
    if (sizeof(void *) != 8) return;
    CHECK(TILEWISE_ABI_VERSION == 2);
    CHECK(sizeof(tilewise_matrix_f32) == 40 && sizeof(tilewise_matrix_f64) == 40);
    CHECK(sizeof(tilewise_matrix_mut_f32) == 40 && sizeof(tilewise_matrix_mut_f64) == 40);
    CHECK(sizeof(tilewise_operand_f32) == 48 && sizeof(tilewise_operand_f64) == 48);
    CHECK(sizeof(tilewise_epilogue_f32) == 64 && sizeof(tilewise_epilogue_f64) == 64);
    CHECK(sizeof(tilewise_network) == 48 && sizeof(tilewise_optimizer_settings) == 56);
    CHECK(sizeof(tilewise_trainer_settings) == 48 && sizeof(tilewise_normalization) == 24);
    CHECK(sizeof(tilewise_shape) == 32 && sizeof(tilewise_status) == 4);
    CHECK(TILEWISE_STATUS_INTERNAL == 10 && TILEWISE_FINISH_GATE == 2 && TILEWISE_INIT_NORMAL == 2);
    CHECK(TILEWISE_PRECISION_F32 == 0 && TILEWISE_PRECISION_BF16 == 1);
}

static void pools(void) {
    tilewise_pool *pool = (tilewise_pool *)8;
    EXPECT(POINTER, "pool is null", tilewise_pool_create(2, NULL));
    EXPECT(SETTING, "threads = 0", tilewise_pool_create(0, &pool));
    EXPECT(SETTING, "threads = ", tilewise_pool_create((size_t)-1, &pool));
    CHECK(pool == (tilewise_pool *)8);
    tilewise_pool_destroy(NULL);
}

static void products(void) {
    enum { M = 4, N = 5, K = 3 };
    float memory[64], before[64], bias[N] = {0}, a_data[M * K], b_data[K * N];
    for (int i = 0; i < 64; i++) memory[i] = (float)i;
    for (int i = 0; i < M * K; i++) a_data[i] = 1;
    for (int i = 0; i < K * N; i++) b_data[i] = 2;
    memcpy(before, memory, sizeof memory);

    tilewise_gemm_f32 *gemm = (tilewise_gemm_f32 *)8;
    EXPECT(POINTER, "gemm is null", tilewise_gemm_f32_create(NULL, M, N, K, NULL));
    EXPECT(POINTER, "multiple of", tilewise_gemm_f32_create(NULL, M, N, K, odd(&gemm)));
    EXPECT(POINTER, "pool", tilewise_gemm_f32_create(odd(memory), M, N, K, &gemm));
    EXPECT(MEMORY, "", tilewise_gemm_f32_create(NULL, (size_t)-1, (size_t)-1, (size_t)-1, &gemm));
    CHECK(gemm == (tilewise_gemm_f32 *)8);
    OK(tilewise_gemm_f32_create(NULL, M, N, K, &gemm));

    const tilewise_operand_f32 a = {matrix(a_data, M, K, K, 1), NULL};
    const tilewise_operand_f32 b = {matrix(b_data, K, N, N, 1), NULL};
    const tilewise_matrix_mut_f32 c = matrix_mut(memory, M, N, N, 1);
    tilewise_epilogue_f32 e = {0};
    EXPECT(POINTER, "gemm is null", tilewise_gemm_f32_run(NULL, 1, &a, &b, &c, &e));
    EXPECT(POINTER, "a is null", tilewise_gemm_f32_run(gemm, 1, NULL, &b, &c, &e));
    EXPECT(POINTER, "b is null", tilewise_gemm_f32_run(gemm, 1, &a, NULL, &c, &e));
    EXPECT(POINTER, "c is null", tilewise_gemm_f32_run(gemm, 1, &a, &b, NULL, &e));
    EXPECT(POINTER, "multiple of", tilewise_gemm_f32_run(gemm, 1, odd((void *)&a), &b, &c, &e));
    EXPECT(POINTER, "epilogue", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, odd(&e)));

    struct {
        tilewise_status status;
        const char *part;
        tilewise_matrix_f32 a;
    } operands[] = {
        {TILEWISE_STATUS_POINTER, "a is null", matrix(NULL, M, K, K, 1)},
        {TILEWISE_STATUS_POINTER, "multiple of 4", matrix(odd(a_data), M, K, K, 1)},
        {TILEWISE_STATUS_SHAPE, "expected", matrix(a_data, M - 1, K, K, 1)},
        {TILEWISE_STATUS_SHAPE, "expected", matrix(a_data, K, M, M, 1)},
        {TILEWISE_STATUS_SHAPE, "address space", matrix(a_data, (size_t)-1, K, K, 1)},
        {TILEWISE_STATUS_SHAPE, "address space", matrix(a_data, M, (size_t)-4, K, 1)},
        {TILEWISE_STATUS_SHAPE, "address space", matrix(a_data, M, K, PTRDIFF_MAX, 1)},
        {TILEWISE_STATUS_SHAPE, "address space", matrix(a_data, M, K, 1, PTRDIFF_MIN)},
        {TILEWISE_STATUS_SHAPE, "address space",
         matrix(a_data, M, SIZE_MAX, PTRDIFF_MAX, PTRDIFF_MIN)},
        {TILEWISE_STATUS_SHAPE, "address space",
         matrix(a_data, SIZE_MAX, SIZE_MAX, PTRDIFF_MIN, -1)},
        {TILEWISE_STATUS_SHAPE, "address space", matrix(a_data, M, K, PTRDIFF_MIN / 64, 1)},
        {TILEWISE_STATUS_SETTING, "a and c overlap", matrix(memory, M, K, K, 1)},
        {TILEWISE_STATUS_SETTING, "a and c overlap", matrix(memory + 24, M, K, -K, 1)},
    };
    for (size_t i = 0; i < sizeof operands / sizeof *operands; i++) {
        tilewise_operand_f32 bad = {operands[i].a, NULL};
        expect(operands[i].status, operands[i].part,
               tilewise_gemm_f32_run(gemm, 1, &bad, &b, &c, &e), (int)i, "a bad A");
    }

    struct {
        tilewise_status status;
        const char *part;
        tilewise_matrix_mut_f32 c;
    } outputs[] = {
        {TILEWISE_STATUS_POINTER, "c is null", matrix_mut(NULL, M, N, N, 1)},
        {TILEWISE_STATUS_SHAPE, "expected", matrix_mut(memory, M, N + 1, N + 1, 1)},
        {TILEWISE_STATUS_SHAPE, "overlaps itself", matrix_mut(memory, M, N, N - 1, 1)},
        {TILEWISE_STATUS_SHAPE, "overlaps itself", matrix_mut(memory, M, N, 0, 1)},
        {TILEWISE_STATUS_SHAPE, "overlaps itself", matrix_mut(memory, M, N, 2, 2)},
        {TILEWISE_STATUS_SHAPE, "address space", matrix_mut(memory, M, N, PTRDIFF_MAX / 8, 1)},
        {TILEWISE_STATUS_SETTING, "a and c overlap", matrix_mut(a_data, M, N, N, 1)},
        {TILEWISE_STATUS_SETTING, "b and c overlap", matrix_mut(b_data - 10, M, N, N, 1)},
    };
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        expect(outputs[i].status, outputs[i].part,
               tilewise_gemm_f32_run(gemm, 1, &a, &b, &outputs[i].c, NULL), (int)i, "a bad C");
    }

    for (int finish = -1; finish <= 3; finish += 4) {
        e.finish = finish;
        EXPECT(SETTING, "finish = ", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    }
    e.finish = INT32_MIN;
    EXPECT(SETTING, "finish = -2147483648", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e.finish = TILEWISE_FINISH_GATE;
    EXPECT(SHAPE, "activation", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e.activation = matrix(NULL, M, N, N, 1);
    EXPECT(POINTER, "activation is null", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e.activation = matrix(memory, M, N, N, 1);
    EXPECT(SETTING, "activation and c overlap", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e = (tilewise_epilogue_f32){.beta = 1, .bias = bias};
    EXPECT(SETTING, "beta = 1", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e = (tilewise_epilogue_f32){.bias = odd(bias)};
    EXPECT(POINTER, "bias", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e.bias = memory + 19;
    EXPECT(SETTING, "bias and c overlap", tilewise_gemm_f32_run(gemm, 1, &a, &b, &c, &e));
    e.bias = bias;
    tilewise_matrix_mut_f32 by_columns = matrix_mut(memory, M, N, 1, M);
    EXPECT(SETTING, "column stride", tilewise_gemm_f32_run(gemm, 1, &a, &b, &by_columns, &e));

    tilewise_packed_f32 *left = (tilewise_packed_f32 *)8, *right;
    EXPECT(POINTER, "a is null", tilewise_pack_a_f32(1, NULL, &left));
    EXPECT(POINTER, "packed is null", tilewise_pack_a_f32(1, &a.matrix, NULL));
    EXPECT(POINTER, "b is null", tilewise_pack_b_f32(NULL, &left));
    EXPECT(SHAPE, "address space", tilewise_pack_b_f32(&operands[5].a, &left));
    CHECK(left == (tilewise_packed_f32 *)8);
    OK(tilewise_pack_a_f32(1, &a.matrix, &left));
    OK(tilewise_pack_b_f32(&b.matrix, &right));
    tilewise_operand_f32 packed_a = {.packed = left}, packed_b = {.packed = right};
    tilewise_packed_f32 *for_b, *for_a;
    OK(tilewise_pack_b_f32(&a.matrix, &for_b));
    OK(tilewise_pack_a_f32(1, &b.matrix, &for_a));
    const tilewise_operand_f32 wrong_a = {.packed = for_b}, wrong_b = {.packed = for_a};
    EXPECT(SETTING, "side A", tilewise_gemm_f32_run(gemm, 1, &wrong_a, &b, &c, NULL));
    EXPECT(SETTING, "side B", tilewise_gemm_f32_run(gemm, 1, &a, &wrong_b, &c, NULL));
    tilewise_packed_f32_destroy(for_a);
    tilewise_packed_f32_destroy(for_b);
    EXPECT(SETTING, "alpha = 2", tilewise_gemm_f32_run(gemm, 2, &packed_a, &b, &c, NULL));
    tilewise_operand_f32 short_a = {matrix(a_data, M, K - 1, K, 1), NULL};
    EXPECT(SHAPE, "expected 2 x 5", tilewise_gemm_f32_run(gemm, 1, &short_a, &packed_b, &c, NULL));
    packed_b.packed = odd(right);
    EXPECT(POINTER, "b = ", tilewise_gemm_f32_run(gemm, 1, &a, &packed_b, &c, NULL));

    CHECK(memcmp(memory, before, sizeof memory) == 0);
    CHECK(a_data[0] == 1 && b_data[0] == 2);
    /* Nothing of all this broke the handles. */
    OK(tilewise_gemm_f32_run(gemm, 1, &packed_a, &b, &c, NULL));
    CHECK(memory[0] == 6 && memory[19] == 6 && memory[20] == 20);
    tilewise_packed_f32_destroy(left);
    tilewise_packed_f32_destroy(right);
    tilewise_packed_f32_destroy(NULL);
    tilewise_gemm_f32_destroy(gemm);
    tilewise_gemm_f32_destroy(NULL);
}

/* A file of safetensors' form: the length of a header, the header, and numbers. */
static const char *model(const char *name, uint64_t claimed, const char *header,
                         const float *numbers, size_t count) {
    const char *path = in_dir(name);
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        exit(1);
    }
    uint64_t length = claimed ? claimed : strlen(header);
    for (int i = 0; i < 8; i++) fputc((int)(length >> 8 * i & 255), file);
    fputs(header, file);
    fwrite(numbers, sizeof *numbers, count, file);
    fclose(file);
    return path;
}

#define TENSOR(name, shape, start, end) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" start "," end "]}"
#define HEADER(weight_shape, weight_end, bias_end)           \
    "{" TENSOR("0.weight", weight_shape, "0", weight_end) "," \
        TENSOR("0.bias", "[2]", weight_end, bias_end) "}"

static void model_files(void) {
    float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const char *good = HEADER("[2,3]", "24", "32");
    tilewise_predictor *p = (tilewise_predictor *)8;
    EXPECT(POINTER, "path is null", tilewise_predictor_load(NULL, NULL, &p));
    EXPECT(POINTER, "predictor is null", tilewise_predictor_load("x", NULL, NULL));
    EXPECT(SETTING, "UTF-8", tilewise_predictor_load("\xff\xfe", NULL, &p));
    EXPECT(IO, "cannot read", tilewise_predictor_load("", NULL, &p));
    EXPECT(IO, "cannot read", tilewise_predictor_load(in_dir("missing"), NULL, &p));
    EXPECT(IO, "cannot read", tilewise_predictor_load(dir, NULL, &p));

    FILE *file = fopen(in_dir("magic"), "wb");
    CHECK(file && fputs("PK\3\4 this is a zip archive of another program", file) >= 0);
    CHECK(file && fclose(file) == 0);
    EXPECT(FILE, "magic", tilewise_predictor_load(in_dir("magic"), NULL, &p));
    const char *lying = model("lying", UINT64_MAX, good, numbers, 8);
    EXPECT(FILE, "lying", tilewise_predictor_load(lying, NULL, &p));
    EXPECT(FILE, "", tilewise_predictor_load(model("long", 4000, good, numbers, 8), NULL, &p));
    EXPECT(FILE, "", tilewise_predictor_load(model("cut", 0, good, numbers, 7), NULL, &p));
    EXPECT(FILE, "", tilewise_predictor_load(model("more", 0, good, numbers, 0), NULL, &p));
    const char *shape = HEADER("[2,4]", "24", "32");
    EXPECT(FILE, "", tilewise_predictor_load(model("shape", 0, shape, numbers, 8), NULL, &p));
    const char *huge = HEADER("[4611686018427387904,4]", "24", "32");
    EXPECT(FILE, "", tilewise_predictor_load(model("huge", 0, huge, numbers, 8), NULL, &p));
    const char *offsets = HEADER("[2,3]", "18446744073709551615", "7");
    EXPECT(FILE, "", tilewise_predictor_load(model("offsets", 0, offsets, numbers, 8), NULL, &p));
    EXPECT(FILE, "", tilewise_predictor_load(model("empty", 0, "{}", numbers, 0), NULL, &p));
    numbers[4] = NAN;
    EXPECT(FILE, "[1, 1]", tilewise_predictor_load(model("nan", 0, good, numbers, 8), NULL, &p));
    numbers[4] = 5;

    double scale[3] = {1, 1, 1}, shift[3] = {0, 0, 0};
    tilewise_normalization n = {scale, shift, 2};
    const char *path = model("good", 0, good, numbers, 8);
    EXPECT(SHAPE, "channels", tilewise_predictor_load(path, &n, &p));
    n.channels = 0;
    EXPECT(SETTING, "channels", tilewise_predictor_load(path, &n, &p));
    n.channels = (size_t)-1;
    EXPECT(SHAPE, "address space", tilewise_predictor_load(path, &n, &p));
    n = (tilewise_normalization){NULL, shift, 3};
    EXPECT(POINTER, "scale is null", tilewise_predictor_load(path, &n, &p));
    n = (tilewise_normalization){scale, NULL, 3};
    EXPECT(POINTER, "shift is null", tilewise_predictor_load(path, &n, &p));
    n.shift = shift;
    scale[2] = NAN;
    EXPECT(SETTING, "finite", tilewise_predictor_load(path, &n, &p));
    EXPECT(SETTING, "precision = 2", tilewise_predictor_load_in(path, NULL, 2, &p));
    EXPECT(POINTER, "path is null", tilewise_predictor_load_in(NULL, NULL, 1, &p));
    EXPECT(POINTER, "predictor is null", tilewise_predictor_load_in(path, NULL, 1, NULL));
    CHECK(p == (tilewise_predictor *)8);
}

static void predictors(void) {
    const float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const char *path = model("good", 0, HEADER("[2,3]", "24", "32"), numbers, 8);
    tilewise_predictor *p, *wide;
    OK(tilewise_predictor_load(path, NULL, &p));
    path = model("wide", 0, HEADER("[2,2]", "16", "24"), numbers, 6);
    OK(tilewise_predictor_load(path, NULL, &wide));

    tilewise_shape shape = {77, 77, 77, 77};
    size_t classes = 77;
    int32_t takes = 77;
    EXPECT(POINTER, "predictor is null", tilewise_predictor_input(NULL, &shape));
    EXPECT(POINTER, "shape is null", tilewise_predictor_input(p, NULL));
    EXPECT(POINTER, "multiple of 8", tilewise_predictor_input(p, odd(&shape)));
    EXPECT(POINTER, "predictor is null", tilewise_predictor_classes(NULL, &classes));
    EXPECT(POINTER, "classes is null", tilewise_predictor_classes(p, NULL));
    EXPECT(POINTER, "predictor is null", tilewise_predictor_takes_images(NULL, &takes));
    EXPECT(POINTER, "takes is null", tilewise_predictor_takes_images(p, NULL));
    EXPECT(POINTER, "predictor is null", tilewise_predictor_precision(NULL, &takes));
    EXPECT(POINTER, "precision is null", tilewise_predictor_precision(p, NULL));
    CHECK(shape.features == 77 && shape.channels == 77 && classes == 77 && takes == 77);
    OK(tilewise_predictor_input(p, &shape));
    OK(tilewise_predictor_classes(p, &classes));
    OK(tilewise_predictor_takes_images(p, &takes));
    CHECK(shape.features == 3 && shape.height == 0 && shape.width == 0 && shape.channels == 0);
    CHECK(classes == 2 && takes == 0);

    tilewise_scratch *s = (tilewise_scratch *)8;
    EXPECT(POINTER, "predictor is null", tilewise_scratch_create(NULL, NULL, 4, &s));
    EXPECT(POINTER, "scratch is null", tilewise_scratch_create(p, NULL, 4, NULL));
    EXPECT(SETTING, "capacity = 0", tilewise_scratch_create(p, NULL, 0, &s));
    EXPECT(MEMORY, "", tilewise_scratch_create(p, NULL, (size_t)-1, &s));
    CHECK(s == (tilewise_scratch *)8);
    OK(tilewise_scratch_create(p, NULL, 4, &s));

    float memory[32], before[32];
    uint8_t images[6] = {0};
    for (int i = 0; i < 32; i++) memory[i] = before[i] = (float)i;
    tilewise_matrix_f32 x = matrix(memory, 2, 3, 3, 1);
    tilewise_matrix_mut_f32 out = matrix_mut(memory + 16, 2, 2, 2, 1);
    EXPECT(POINTER, "predictor is null", tilewise_predict(NULL, s, &x, &out));
    EXPECT(POINTER, "scratch is null", tilewise_predict(p, NULL, &x, &out));
    EXPECT(POINTER, "x is null", tilewise_predict(p, s, NULL, &out));
    EXPECT(POINTER, "logits is null", tilewise_predict(p, s, &x, NULL));
    EXPECT(SETTING, "scratch", tilewise_predict(wide, s, &x, &out));
    tilewise_matrix_f32 bad = matrix(memory, 2, 2, 3, 1);
    EXPECT(SHAPE, "2 x 3, found 2 x 2", tilewise_predict(p, s, &bad, &out));
    bad = matrix(NULL, 2, 3, 3, 1);
    EXPECT(POINTER, "x is null", tilewise_predict(p, s, &bad, &out));
    bad = matrix(memory, (size_t)-2, 3, 3, 1);
    EXPECT(SHAPE, "address space", tilewise_predict(p, s, &bad, &out));
    tilewise_matrix_mut_f32 odd_out = matrix_mut(memory + 16, 3, 2, 2, 1);
    EXPECT(SHAPE, "logits", tilewise_predict(p, s, &x, &odd_out));
    odd_out = matrix_mut(memory + 16, 2, 2, 4, 2);
    EXPECT(SETTING, "column stride", tilewise_predict(p, s, &x, &odd_out));
    odd_out = matrix_mut(memory + 16, 2, 2, 1, 1);
    EXPECT(SHAPE, "overlaps itself", tilewise_predict(p, s, &x, &odd_out));
    odd_out = matrix_mut(memory + 5, 2, 2, 2, 1);
    EXPECT(SETTING, "x and logits overlap", tilewise_predict(p, s, &x, &odd_out));
    EXPECT(SETTING, "normalization", tilewise_predict_images(p, s, images, 2, &out));
    EXPECT(POINTER, "predictor is null", tilewise_predict_images(NULL, s, images, 2, &out));
    EXPECT(POINTER, "scratch is null", tilewise_predict_images(p, NULL, images, 2, &out));
    EXPECT(POINTER, "images is null", tilewise_predict_images(p, s, NULL, 2, &out));
    EXPECT(POINTER, "logits is null", tilewise_predict_images(p, s, images, 2, NULL));
    EXPECT(MEMORY, "images", tilewise_predict_images(p, s, images, (size_t)-1, &out));
    EXPECT(SHAPE, "address", tilewise_predict_images(p, s, images, SIZE_MAX / 3, &out));
    uint8_t *inside = (uint8_t *)(memory + 17);
    EXPECT(SETTING, "overlap", tilewise_predict_images(p, s, inside, 2, &out));

    EXPECT(POINTER, "logits is null", tilewise_softmax(NULL));
    odd_out = matrix_mut(memory, 2, 2, 1, 2);
    EXPECT(SETTING, "column stride", tilewise_softmax(&odd_out));
    odd_out = matrix_mut(NULL, 2, 2, 2, 1);
    EXPECT(POINTER, "logits is null", tilewise_softmax(&odd_out));
    size_t best[2] = {77, 77}, found = 77;
    EXPECT(POINTER, "row is null", tilewise_top_k(NULL, 3, 2, best, NULL, &found));
    EXPECT(POINTER, "best is null", tilewise_top_k(memory, 3, 2, NULL, NULL, &found));
    EXPECT(POINTER, "found is null", tilewise_top_k(memory, 3, 2, best, NULL, NULL));
    EXPECT(SHAPE, "best", tilewise_top_k(memory, 3, (size_t)-1, best, NULL, &found));
    EXPECT(SHAPE, "row", tilewise_top_k(memory, SIZE_MAX / 2, 2, best, NULL, &found));
    float *in_best = (float *)(void *)best;
    EXPECT(SETTING, "row and best overlap", tilewise_top_k(in_best, 3, 2, best, NULL, &found));
    EXPECT(SETTING, "best_values and best over",
           tilewise_top_k(memory, 3, 2, best, in_best, &found));
    EXPECT(SETTING, "row and best_values overlap",
           tilewise_top_k(memory, 3, 2, best, memory + 2, &found));
    CHECK(best[0] == 77 && found == 77);
    CHECK(memcmp(memory, before, sizeof memory) == 0);

    tilewise_matrix_f32 no_rows = matrix(NULL, 0, 3, 3, 1);
    tilewise_matrix_mut_f32 no_logits = matrix_mut(NULL, 0, 2, 2, 1);
    OK(tilewise_predict(p, s, &no_rows, &no_logits));
    OK(tilewise_predict(p, s, &x, &out));
    CHECK(memory[16] == 0 * 1 + 1 * 2 + 2 * 3 + 7 && memory[19] == 3 * 4 + 4 * 5 + 5 * 6 + 8);
    tilewise_scratch_destroy(s);
    tilewise_scratch_destroy(NULL);
    tilewise_predictor_destroy(p);
    tilewise_predictor_destroy(wide);
    tilewise_predictor_destroy(NULL);
}

static void trainers(void) {
    const size_t good_dims[3] = {3, 4, 2};
    size_t dims[3] = {3, 4, 2};
    const tilewise_network good_net = {.dims = good_dims, .dims_len = 3};
    const tilewise_trainer_settings good_settings = {.batch_size = 2, .learning_rate = 0.1};
    tilewise_optimizer_settings adam = {.momentum = 77}, rule;
    EXPECT(POINTER, "name", tilewise_optimizer_init(NULL, &adam));
    EXPECT(POINTER, "settings is null", tilewise_optimizer_init("adam", NULL));
    EXPECT(SETTING, "optimizer = lion", tilewise_optimizer_init("lion", &adam));
    EXPECT(SETTING, "UTF-8", tilewise_optimizer_init("\xff", &adam));
    CHECK(adam.momentum == 77);
    OK(tilewise_optimizer_init("adam", &adam));
    CHECK(adam.beta1 == 0.9 && adam.beta2 == 0.999 && adam.epsilon == 1e-8 && adam.momentum == 0);

    tilewise_trainer *t = (tilewise_trainer *)8;
    const tilewise_network *n = &good_net;
    const tilewise_trainer_settings *s = &good_settings;
    EXPECT(POINTER, "network is null", tilewise_trainer_create(NULL, &adam, s, NULL, &t));
    EXPECT(POINTER, "optimizer is null", tilewise_trainer_create(n, NULL, s, NULL, &t));
    EXPECT(POINTER, "settings is null", tilewise_trainer_create(n, &adam, NULL, NULL, &t));
    EXPECT(POINTER, "trainer is null", tilewise_trainer_create(n, &adam, s, NULL, NULL));

#define BAD_NETWORK(status, part, ...)                                        \
    do {                                                                      \
        tilewise_network net = {.dims = dims, .dims_len = 3};                 \
        __VA_ARGS__;                                                          \
        EXPECT(status, part, tilewise_trainer_create(&net, &adam, s, NULL, &t)); \
        memcpy(dims, good_dims, sizeof dims);                                 \
    } while (0)
    BAD_NETWORK(POINTER, "dims is null", net.dims = NULL);
    BAD_NETWORK(POINTER, "multiple of 8", net.dims = odd(dims));
    BAD_NETWORK(SETTING, "dims_len = 0", net.dims_len = 0);
    BAD_NETWORK(SETTING, "dims_len = 1", net.dims_len = 1);
    BAD_NETWORK(SHAPE, "address space", net.dims_len = (size_t)-1);
    BAD_NETWORK(SETTING, "input of a network = 0 features", dims[0] = 0);
    BAD_NETWORK(SETTING, "hidden", dims[1] = 0);
    BAD_NETWORK(SETTING, "at least 1", dims[2] = 0);
    BAD_NETWORK(MEMORY, "", dims[0] = (size_t)-1);
    BAD_NETWORK(SETTING, "init = -1", net.init = -1);
    BAD_NETWORK(SETTING, "init = 3", net.init = 3);
    BAD_NETWORK(SETTING, "weight_scale", net.init = TILEWISE_INIT_NORMAL; net.weight_scale = NAN);
    BAD_NETWORK(SETTING, "weight_scale", net.init = TILEWISE_INIT_NORMAL; net.weight_scale = -1);
    BAD_NETWORK(SETTING, "dropout = 1", net.dropout = 1);
    BAD_NETWORK(SETTING, "dropout = NaN", net.dropout = NAN);

#define BAD_RULE(status, part, ...)                                         \
    do {                                                                    \
        rule = adam;                                                        \
        __VA_ARGS__;                                                        \
        EXPECT(status, part, tilewise_trainer_create(n, &rule, s, NULL, &t)); \
    } while (0)
    BAD_RULE(POINTER, "name of the optimizer is null", rule.name = NULL);
    BAD_RULE(SETTING, "optimizer = Adam", rule.name = "Adam");
    BAD_RULE(SETTING, "beta1 = 1", rule.beta1 = 1);
    BAD_RULE(SETTING, "beta2 = -1", rule.beta2 = -1);
    BAD_RULE(SETTING, "epsilon = 0", rule.epsilon = 0);
    BAD_RULE(SETTING, "momentum = 2", rule.name = "momentum"; rule.momentum = 2);
    BAD_RULE(SETTING, "rms_decay = 1", rule.name = "rmsprop"; rule.decay = 1);
    BAD_RULE(SETTING, "weight_decay = inf", rule.weight_decay = INFINITY);

#define BAD_SETTINGS(status, part, ...)                                          \
    do {                                                                         \
        tilewise_trainer_settings set = good_settings;                           \
        __VA_ARGS__;                                                             \
        EXPECT(status, part, tilewise_trainer_create(n, &adam, &set, NULL, &t)); \
    } while (0)
    BAD_SETTINGS(SETTING, "batch = 0", set.batch_size = 0);
    BAD_SETTINGS(MEMORY, "", set.batch_size = (size_t)-1);
    BAD_SETTINGS(SETTING, "learning_rate = NaN", set.learning_rate = NAN);
    BAD_SETTINGS(SETTING, "smoothing", set.label_smoothing = 1.5);
    BAD_SETTINGS(SETTING, "clip_norm = -1", set.clip_norm = -1);
    BAD_SETTINGS(SETTING, "clip_norm = NaN", set.clip_norm = NAN);
    BAD_SETTINGS(SETTING, "l2 = -1", set.l2 = -1);
    BAD_SETTINGS(SETTING, "l2 = NaN", set.l2 = NAN);
    BAD_SETTINGS(SETTING, "precision = 2: expected 0 (f32) or 1 (bf16)", set.precision = 2);
    BAD_SETTINGS(SETTING, "precision = -1", set.precision = -1);
    CHECK(t == (tilewise_trainer *)8);

    const float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    char path[4096];
    snprintf(path, sizeof path, "%s",
             model("good", 0, HEADER("[2,3]", "24", "32"), numbers, 8));
    EXPECT(POINTER, "path", tilewise_trainer_create_from_file(NULL, 0, &adam, s, NULL, &t));
    EXPECT(POINTER, "optimizer", tilewise_trainer_create_from_file(path, 0, NULL, s, NULL, &t));
    EXPECT(POINTER, "settings", tilewise_trainer_create_from_file(path, 0, &adam, NULL, NULL, &t));
    EXPECT(POINTER, "trainer", tilewise_trainer_create_from_file(path, 0, &adam, s, NULL, NULL));
    EXPECT(IO, "cannot read",
           tilewise_trainer_create_from_file(in_dir("missing"), 0, &adam, s, NULL, &t));
    EXPECT(FILE, "magic",
           tilewise_trainer_create_from_file(in_dir("magic"), 0, &adam, s, NULL, &t));
    rule = adam;
    rule.beta1 = 1;
    EXPECT(SETTING, "beta1 = 1", tilewise_trainer_create_from_file(path, 0, &rule, s, NULL, &t));
    CHECK(t == (tilewise_trainer *)8);
    OK(tilewise_trainer_create_from_file(path, 0, &adam, s, NULL, &t));
    tilewise_trainer_destroy(t);

    OK(tilewise_trainer_create(n, &adam, s, NULL, &t));
    float data[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const uint32_t labels[3] = {0, 1, 0}, high[2] = {0, 2}, highest[2] = {UINT32_MAX, 0};
    double loss = 77;
    tilewise_matrix_f32 x = matrix(data, 2, 3, 3, 1), bad = matrix(data, 3, 3, 3, 1);
    EXPECT(POINTER, "trainer is null", tilewise_trainer_step(NULL, &x, labels, 2, &loss));
    EXPECT(POINTER, "x is null", tilewise_trainer_step(t, NULL, labels, 2, &loss));
    EXPECT(POINTER, "labels is null", tilewise_trainer_step(t, &x, NULL, 2, &loss));
    EXPECT(POINTER, "loss", tilewise_trainer_step(t, &x, labels, 2, odd(&loss)));
    EXPECT(SHAPE, "expected 2 elements, found 3", tilewise_trainer_step(t, &x, labels, 3, &loss));
    EXPECT(SHAPE, "labels", tilewise_trainer_step(t, &x, labels, (size_t)-1, &loss));
    EXPECT(SETTING, "label 2 in row 1", tilewise_trainer_step(t, &x, high, 2, &loss));
    EXPECT(SETTING, "label 4294967295 in row 0", tilewise_trainer_step(t, &x, highest, 2, &loss));
    EXPECT(POINTER, "labels", tilewise_trainer_step(t, &x, odd((void *)labels), 2, &loss));
    EXPECT(SHAPE, "3 rows", tilewise_trainer_step(t, &bad, labels, 3, &loss));
    bad = matrix(data, 2, 2, 2, 1);
    EXPECT(SHAPE, "expected", tilewise_trainer_step(t, &bad, labels, 2, &loss));
    bad = matrix(data, 2, 3, PTRDIFF_MAX, 1);
    EXPECT(SHAPE, "address space", tilewise_trainer_step(t, &bad, labels, 2, &loss));
    bad = matrix(NULL, 0, 3, 3, 1);
    EXPECT(SETTING, "batch = 0", tilewise_trainer_step(t, &bad, NULL, 0, &loss));
    data[4] = NAN;
    EXPECT(DIVERGED, "loss became NaN", tilewise_trainer_step(t, &x, labels, 2, &loss));
    data[4] = 5;
    CHECK(loss == 77);
    EXPECT(POINTER, "trainer is null", tilewise_trainer_set_learning_rate(NULL, 0.1));
    EXPECT(SETTING, "learning_rate = -1", tilewise_trainer_set_learning_rate(t, -1));
    EXPECT(SETTING, "learning_rate = NaN", tilewise_trainer_set_learning_rate(t, NAN));
    uint64_t steps = 77;
    EXPECT(POINTER, "trainer is null", tilewise_trainer_steps(NULL, &steps));
    EXPECT(POINTER, "steps is null", tilewise_trainer_steps(t, NULL));
    CHECK(steps == 77);
    OK(tilewise_trainer_steps(t, &steps));
    CHECK(steps == 0);
    EXPECT(POINTER, "trainer is null", tilewise_trainer_save(NULL, "x", NULL));
    EXPECT(POINTER, "path is null", tilewise_trainer_save(t, NULL, NULL));
    EXPECT(IO, "cannot write", tilewise_trainer_save(t, in_dir("missing/model"), NULL));
    EXPECT(POINTER, "trainer is null", tilewise_trainer_save_in(NULL, "x", NULL, 1));
    EXPECT(POINTER, "path is null", tilewise_trainer_save_in(t, NULL, NULL, 1));
    EXPECT(SETTING, "precision = 2", tilewise_trainer_save_in(t, in_dir("model"), NULL, 2));
    EXPECT(POINTER, "trainer is null", tilewise_trainer_save_checkpoint(NULL, "x"));
    EXPECT(POINTER, "path is null", tilewise_trainer_save_checkpoint(t, NULL));
    EXPECT(IO, "cannot write", tilewise_trainer_save_checkpoint(t, in_dir("missing/checkpoint")));
    EXPECT(POINTER, "trainer is null", tilewise_trainer_load_checkpoint(NULL, "x"));
    EXPECT(POINTER, "path is null", tilewise_trainer_load_checkpoint(t, NULL));
    EXPECT(IO, "cannot read", tilewise_trainer_load_checkpoint(t, in_dir("missing")));
    EXPECT(FILE, "magic", tilewise_trainer_load_checkpoint(t, in_dir("magic")));
    EXPECT(FILE, "good", tilewise_trainer_load_checkpoint(t, path));
    tilewise_trainer_settings other_settings = good_settings;
    other_settings.l2 = 0.5;
    tilewise_trainer *other_trainer;
    OK(tilewise_trainer_create(n, &adam, &other_settings, NULL, &other_trainer));
    OK(tilewise_trainer_step(other_trainer, &x, labels, 2, NULL));
    OK(tilewise_trainer_save_checkpoint(other_trainer, in_dir("checkpoint")));
    tilewise_trainer_destroy(other_trainer);
    EXPECT(SETTING, "l2", tilewise_trainer_load_checkpoint(t, in_dir("checkpoint")));
    tilewise_predictor *p = (tilewise_predictor *)8;
    tilewise_normalization two = {(double[]){1, 1}, (double[]){0, 0}, 2};
    EXPECT(POINTER, "trainer is null", tilewise_trainer_predictor(NULL, NULL, &p));
    EXPECT(POINTER, "predictor is null", tilewise_trainer_predictor(t, NULL, NULL));
    EXPECT(SHAPE, "channels", tilewise_trainer_predictor(t, &two, &p));
    CHECK(p == (tilewise_predictor *)8);

    /* All that was refused left no trace: the steps are those of a new trainer. */
    tilewise_trainer *fresh;
    double other;
    OK(tilewise_trainer_create(n, &adam, s, NULL, &fresh));
    for (int step = 0; step < 3; step++) {
        OK(tilewise_trainer_step(t, &x, labels, 2, &loss));
        OK(tilewise_trainer_step(fresh, &x, labels, 2, &other));
        CHECK(loss == other);
    }
    OK(tilewise_trainer_step(t, &x, labels, 2, NULL));
    OK(tilewise_trainer_steps(t, &steps));
    CHECK(steps == 4);
    tilewise_trainer_destroy(t);
    tilewise_trainer_destroy(fresh);
    tilewise_trainer_destroy(NULL);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    dir = argv[1];
    CHECK(strcmp(tilewise_last_error(), "") == 0);
    EXPECT(POINTER, "name is null", tilewise_instruction_set(NULL));
    abi();
    pools();
    products();
    model_files();
    predictors();
    trainers();
    return verdict();
}
