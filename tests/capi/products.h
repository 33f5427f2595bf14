/* Products of one element type against plain loops, included once for each: REAL is the type,
   TYPE(x) and GEMM(x) the names of its structs and functions, NAME(x) those of this file. Data are
   small whole numbers, so that every order of summation gives the same. */

typedef struct {
    REAL *memory, *first;
    size_t len;
    ptrdiff_t row_stride, col_stride;
} NAME(Storage);

/* Room for a matrix, all of it `fill`. */
static NAME(Storage) NAME(allocate)(size_t rows, size_t cols, int layout, REAL fill) {
    NAME(Storage) s;
    s.row_stride = layout == BY_COLUMNS ? 1 : (ptrdiff_t)cols + 3;
    s.col_stride = layout == BY_COLUMNS ? (ptrdiff_t)rows + 2 : 1;
    s.len = (rows + 2) * (cols + 3);
    s.memory = malloc(s.len * sizeof(REAL));
    for (size_t i = 0; i < s.len; i++) s.memory[i] = fill;
    s.first = s.memory;
    if (layout == UPSIDE_DOWN) {
        s.first += ((ptrdiff_t)rows - 1) * s.row_stride;
        s.row_stride = -s.row_stride;
    }
    return s;
}

static REAL *NAME(at)(const NAME(Storage) *s, size_t i, size_t j) {
    return s->first + (ptrdiff_t)i * s->row_stride + (ptrdiff_t)j * s->col_stride;
}

static NAME(Storage) NAME(store)(const REAL *values, size_t rows, size_t cols, int layout) {
    NAME(Storage) s = NAME(allocate)(rows, cols, layout, NAN);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) *NAME(at)(&s, i, j) = values[i * cols + j];
    return s;
}

static TYPE(matrix) NAME(view)(const NAME(Storage) *s, size_t rows, size_t cols) {
    TYPE(matrix) m = {s->first, rows, cols, s->row_stride, s->col_stride};
    return m;
}

static REAL *NAME(numbers)(size_t len) {
    REAL *values = malloc(len * sizeof(REAL));
    for (size_t i = 0; i < len; i++) values[i] = (REAL)(rand() % 9 - 4);
    return values;
}

/* What the tests of one size share. */
typedef struct {
    size_t m, n, k;
    REAL *a, *b, *c, *bias, *gate, *product;
} NAME(Case);

/* One product with one epilogue into one layout, on one plan. */
static void NAME(run)(const NAME(Case) *x, TYPE(gemm) *gemm, const TYPE(operand) *a,
                      const TYPE(operand) *b, REAL alpha, int layout, TYPE(epilogue) e) {
    int reads_c = e.beta != 0;
    NAME(Storage) c = reads_c ? NAME(store)(x->c, x->m, x->n, layout)
                              : NAME(allocate)(x->m, x->n, layout, NAN);
    TYPE(matrix_mut) out = {c.first, x->m, x->n, c.row_stride, c.col_stride};
    OK(GEMM(run)(gemm, alpha, a, b, &out, &e));
    size_t wrong = 0;
    for (size_t i = 0; i < x->m; i++)
        for (size_t j = 0; j < x->n; j++) {
            REAL sum = alpha * x->product[i * x->n + j];
            if (reads_c) sum += e.beta * x->c[i * x->n + j];
            if (e.bias) sum += e.bias[j];
            if (e.finish == TILEWISE_FINISH_RELU && sum < 0) sum = 0;
            if (e.finish == TILEWISE_FINISH_GATE && !(x->gate[i * x->n + j] > 0)) sum = 0;
            wrong += *NAME(at)(&c, i, j) != sum;
            *NAME(at)(&c, i, j) = NAN;
        }
    for (size_t i = 0; i < c.len; i++) wrong += c.memory[i] == c.memory[i]; /* the gaps */
    if (wrong) printf("%zu x %zu x %zu, layout %d: %zu wrong\n", x->m, x->n, x->k, layout, wrong);
    CHECK(wrong == 0);
    free(c.memory);
}

static void NAME(size)(size_t m, size_t n, size_t k, tilewise_pool *const *pools) {
    NAME(Case) x = {m, n, k, NAME(numbers)(m * k), NAME(numbers)(k * n), NAME(numbers)(m * n),
                    NAME(numbers)(n), NAME(numbers)(m * n), calloc(m * n, sizeof(REAL))};
    for (size_t i = 0; i < m; i++)
        for (size_t p = 0; p < k; p++)
            for (size_t j = 0; j < n; j++) x.product[i * n + j] += x.a[i * k + p] * x.b[p * n + j];
    const TYPE(epilogue) epilogues[] = {
        {0},
        {.beta = 2},
        {.beta = -1, .finish = TILEWISE_FINISH_RELU},
        {.bias = x.bias},
        {.bias = x.bias, .finish = TILEWISE_FINISH_RELU},
        {.finish = TILEWISE_FINISH_GATE, .activation = {x.gate, m, n, (ptrdiff_t)n, 1}},
    };
    for (int layout = 0; layout < LAYOUTS; layout++) {
        NAME(Storage) a = NAME(store)(x.a, m, k, layout), b = NAME(store)(x.b, k, n, layout);
        const TYPE(operand) plain[2] = {{NAME(view)(&a, m, k), NULL}, {NAME(view)(&b, k, n), NULL}};
        TYPE(packed) *panels[2];
        OK(PACK(a)(1, &plain[0].matrix, &panels[0]));
        OK(PACK(b)(&plain[1].matrix, &panels[1]));
        const TYPE(operand) packed[2] = {{.packed = panels[0]}, {.packed = panels[1]}};
        for (int pool = 0; pool < 3; pool++) {
            TYPE(gemm) *gemm;
            OK(GEMM(create)(pools[pool], m, n, k, &gemm));
            for (size_t e = 0; e < sizeof epilogues / sizeof *epilogues; e++) {
                /* A bias or a gate goes with contiguous columns. */
                int any = !epilogues[e].bias && epilogues[e].finish != TILEWISE_FINISH_GATE;
                int out = layout == BY_COLUMNS && !any ? BY_ROWS : layout;
                for (int which = 0; which < 4; which++) {
                    const TYPE(operand) *left = which & 1 ? packed : plain;
                    const TYPE(operand) *right = which & 2 ? packed + 1 : plain + 1;
                    REAL alpha = which & 1 ? 1 : 3;
                    NAME(run)(&x, gemm, left, right, alpha, out, epilogues[e]);
                }
            }
            GEMM(destroy)(gemm);
        }
        free(a.memory);
        free(b.memory);
        PACKED_DESTROY(panels[0]);
        PACKED_DESTROY(panels[1]);
    }
    free(x.a), free(x.b), free(x.c), free(x.bias), free(x.gate), free(x.product);
}
