/* A random call with REALs, by CBLAS or by FORTRAN, and its line of the transcript. Included by
 * transcript.c for each type. */

/* Memory of exactly this extent, at any alignment of REALs; NaN between the lines, now and then an
 * infinity or NaN in them. `memory` is to be freed. */
static REAL *NAME(numbers, REAL)(REAL **memory, REAL unit, int lines, int length, int step) {
    static const REAL special[] = {(REAL)INFINITY, -(REAL)INFINITY, (REAL)NAN, -(REAL)0};
    size_t size = extent(lines, length, step), shift = below(8);
    *memory = malloc((shift + size) * sizeof(REAL));
    REAL *numbers = *memory + shift;
    int specials = below(5) == 0 ? 1 + below(30) : 0;
    for (size_t i = 0; i < size; i++) {
        int is_special = specials && below(specials * 10) == 0;
        numbers[i] = is_special ? special[below(4)] : unit * (REAL)(below(9) - 4);
        if ((int)(i % step) >= length) numbers[i] = (REAL)NAN;
    }
    return numbers;
}

static void NAME(call, REAL)(int fortran) {
    static const REAL alphas[] = {0, 1, -1, 2, (REAL)-0.5, -(REAL)0, (REAL)NAN};
    static const REAL betas[] = {0, 1, -1, 2, (REAL)-0.5, -(REAL)0, (REAL)NAN, (REAL)INFINITY};
    int wrong = fortran ? WRONG_FORTRAN : WRONG_NUMBERS;
    int layout = fortran ? 0 : or_wrong(WRONG_SETTINGS, 40, CblasRowMajor + below(2), illegal());
    int by_rows = layout == CblasRowMajor;
    int limit = below(200) == 0 ? 300 : below(8) ? 12 : 60;
    int m = below(limit), n = below(limit), k = below(limit);
    int trans_a = below(3), trans_b = below(3);
    REAL alpha = alphas[below(12) ? below(6) : below(7)], beta = betas[below(12) ? below(6) : below(8)];
    /* NaN times no terms is NaN with the reference where A is transposed, else nothing. */
    if (isnan(alpha) && k == 0) alpha = 1;
    /* Sizes that nothing is read of may be huge. */
    if ((alpha == 0 || m == 0 || n == 0) && below(20) == 0) k = INT_MAX - below(2);
    if (n == 0 && below(5) == 0) m = INT_MAX - below(2);
    if (m == 0 && below(5) == 0) n = INT_MAX - below(2);
    m = or_wrong(wrong, 40, m, -1 - below(3));
    n = or_wrong(wrong, 40, n, -1 - below(3));
    k = or_wrong(wrong, 40, k, -1 - below(3));

    int a_by_rows = by_rows != (trans_a > 0), b_by_rows = by_rows != (trans_b > 0);
    int a_length = a_by_rows ? k : m, b_length = b_by_rows ? n : k, c_length = by_rows ? n : m;
    int a_lines = a_by_rows ? m : k, b_lines = b_by_rows ? k : n, c_lines = by_rows ? m : n;
    int lda = leading(wrong, a_lines, a_length), ldb = leading(wrong, b_lines, b_length);
    int ldc = leading(wrong, c_lines, c_length);
    int is_wrong = m < 0 || n < 0 || k < 0 || lda < 1 || lda < a_length || ldb < 1 ||
                   ldb < b_length || ldc < 1 || ldc < c_length;
    int nothing = is_wrong || m == 0 || n == 0 || ((alpha == 0 || k == 0) && beta == 1);

    /* What is not to be read need not be there. Subnormal numbers: with A and C in their unit every
     * sum is exact. */
    REAL *memory[3] = {NULL, NULL, NULL}, *a = NULL, *b = NULL, *c = NULL;
    REAL unit = below(10) ? 1 : 8 * TINY;
    if (!nothing && alpha != 0) {
        a = NAME(numbers, REAL)(&memory[0], unit, a_lines, a_length, lda);
        b = NAME(numbers, REAL)(&memory[1], 1, b_lines, b_length, ldb);
    }
    if (is_wrong) c_lines = 1, c_length = 50;
    size_t size = extent(c_lines, c_length, is_wrong ? 50 : ldc);
    if (size > 0) c = NAME(numbers, REAL)(&memory[2], unit, c_lines, c_length, is_wrong ? 50 : ldc);
    REAL *before = malloc(size * sizeof(REAL));
    if (size > 0) memcpy(before, c, size * sizeof(REAL));

    printf("%d %d %d %d x %d x %d %d %d %d %g %g:", fortran, (int)sizeof(REAL), layout, m, n, k,
           lda, ldb, ldc, (double)alpha, (double)beta);
    if (fortran) {
        const char *letters[] = {"Nn", "tT", "cC"};
        char letter_a = letters[trans_a][below(2)], letter_b = letters[trans_b][below(2)];
        letter_a = (char)or_wrong(wrong, 40, letter_a, illegal());
        letter_b = (char)or_wrong(wrong, 40, letter_b, illegal());
        printf(" %d %d", letter_a, letter_b);
        FORTRAN(&letter_a, &letter_b, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc, 1, 1);
    } else {
        int set_a = CblasNoTrans + trans_a, set_b = CblasNoTrans + trans_b;
        set_a = or_wrong(WRONG_SETTINGS, 40, set_a, illegal());
        /* Of B's setting in row-major order the reference, up to 3.11, says 2. */
        set_b = or_wrong(WRONG_SETTINGS && !by_rows, 40, set_b, illegal());
        printf(" %d %d", set_a, set_b);
        CBLAS(layout, set_a, set_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    }

    /* With nothing to compute C stays as it is, to the bit. Else: of a NaN that it is one, of 0 no
     * sign. */
    if (nothing && size > 0)
        printf(memcmp(c, before, size * sizeof(REAL)) ? " changed" : " as it was");
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < size; i++) {
        REAL element = isnan(c[i]) ? (REAL)NAN : c[i] == 0 ? 0 : c[i];
        BITS bits;
        memcpy(&bits, &element, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    printf(" %016llx\n", (unsigned long long)hash);
    for (int i = 0; i < 3; i++) free(memory[i]);
    free(before);
}
