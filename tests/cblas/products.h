/* A random product of REALs: by CBLAS in either layout, or by FORTRAN. Included by products.c for
 * each type. */

/* Memory of exactly this place, NaN wherever no element of the matrix is. */
static REAL *NAME(matrix, REAL)(uint64_t *state, struct place place) {
    size_t length = extent(place);
    REAL *elements = malloc(length * sizeof(REAL));
    for (size_t i = 0; i < length; i++) {
        int inside = (int)(i % place.leading) < place.length;
        elements[i] = inside ? (REAL)(below(state, 9) - 4) : (REAL)NAN;
    }
    return elements;
}

static void NAME(product, REAL)(uint64_t *state, int limit) {
    static const REAL factors[] = {0, 1, -2, (REAL)0.5};
    int m = below(state, limit), n = below(state, limit), k = below(state, limit);
    REAL alpha = factors[below(state, 4)], beta = factors[below(state, 4)];
    int fortran = below(state, 3) == 0;
    int by_rows = !fortran && below(state, 2);
    int trans_a = below(state, 3), trans_b = below(state, 3);

    /* A transposed matrix is stored the other way round. */
    int a_by_rows = by_rows != (trans_a > 0), b_by_rows = by_rows != (trans_b > 0);
    struct place a_place = place(state, a_by_rows, m, k);
    struct place b_place = place(state, b_by_rows, k, n);
    struct place c_place = place(state, by_rows, m, n);
    REAL *a = NAME(matrix, REAL)(state, a_place), *b = NAME(matrix, REAL)(state, b_place);
    REAL *c = NAME(matrix, REAL)(state, c_place);
    size_t length = extent(c_place);
    if (beta == 0)
        for (size_t i = 0; i < length; i++) c[i] = (REAL)NAN;
    REAL *expected = malloc(length * sizeof(REAL));
    if (length) memcpy(expected, c, length * sizeof(REAL));
    for (int row = 0; row < m; row++)
        for (int col = 0; col < n; col++) {
            REAL sum = 0, *element = &expected[at(c_place, by_rows, row, col)];
            for (int i = 0; alpha != 0 && i < k; i++)
                sum += a[at(a_place, a_by_rows, row, i)] * b[at(b_place, b_by_rows, i, col)];
            *element = alpha * sum + (beta == 0 ? 0 : beta * *element);
        }

    /* What is not to be read need not be there. */
    const REAL *left = alpha == 0 ? NULL : a, *right = alpha == 0 ? NULL : b;
    if (fortran) {
        const char *letters[] = {"Nn", "tT", "cC"};
        int upper = below(state, 2);
        FORTRAN(letters[trans_a] + upper, letters[trans_b] + upper, &m, &n, &k, &alpha, left,
                &a_place.leading, right, &b_place.leading, &beta, c, &c_place.leading, 1, 1);
    } else {
        static const enum CBLAS_TRANSPOSE settings[] = {CblasNoTrans, CblasTrans, CblasConjTrans};
        CBLAS(by_rows ? CblasRowMajor : CblasColMajor, settings[trans_a], settings[trans_b], m, n,
              k, alpha, left, a_place.leading, right, b_place.leading, beta, c, c_place.leading);
    }
    for (size_t i = 0; i < length; i++)
        if (!(c[i] == expected[i] || (isnan(c[i]) && isnan(expected[i])))) {
            fprintf(stderr,
                    "%s of %zu bytes, %d x %d x %d, %s, transposed %d %d, leading %d %d %d, "
                    "alpha %g, beta %g: element %zu is %g, expected %g\n",
                    fortran ? "Fortran" : "CBLAS", sizeof(REAL), m, n, k,
                    by_rows ? "by rows" : "by columns", trans_a, trans_b, a_place.leading,
                    b_place.leading, c_place.leading, (double)alpha, (double)beta, i, (double)c[i],
                    (double)expected[i]);
            failures = 1;
            break;
        }
    free(a);
    free(b);
    free(c);
    free(expected);
}
