/* The BLAS that a program was linked with before another was preloaded: its routines are not to be
 * called. With HANDLERS it has error handlers, as every BLAS has, and with ROW_MAJOR_VARIABLE and
 * CALL_VARIABLE the variables of the reference's; those of the program take their place. */
#include <stdio.h>
#include <stdlib.h>

#define NOT_CALLED(routine)                                                                    \
    void routine(void) {                                                                       \
        fprintf(stderr, "the other BLAS: " #routine "\n");                                     \
        abort();                                                                               \
    }

NOT_CALLED(cblas_sgemm)
NOT_CALLED(cblas_dgemm)
NOT_CALLED(sgemm_)
NOT_CALLED(dgemm_)

#ifdef HANDLERS
NOT_CALLED(cblas_xerbla)
NOT_CALLED(xerbla_)
#endif
#ifdef ROW_MAJOR_VARIABLE
int RowMajorStrg;
#endif
#ifdef CALL_VARIABLE
int CBLAS_CallFromC;
#endif
