/* The four routines and their error handlers, as C programs declare them: by the system's header,
 * or by prototypes of our own. */
#ifndef BLAS_H
#define BLAS_H

#ifdef SYSTEM_CBLAS
#include <cblas.h>
#else
enum CBLAS_ORDER { CblasRowMajor = 101, CblasColMajor = 102 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112, CblasConjTrans = 113 };
void cblas_sgemm(enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, int, int, int,
                 float, const float *, int, const float *, int, float, float *, int);
void cblas_dgemm(enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, int, int, int,
                 double, const double *, int, const double *, int, double, double *, int);
void cblas_xerbla(int, const char *, const char *, ...);
#endif

/* As gfortran calls them, with the lengths of the strings behind the other arguments. Headers that
 * declare them do so without. */
#define FORTRAN_PROTOTYPE(routine, real)                                                       \
    void routine(const char *, const char *, const int *, const int *, const int *,            \
                 const real *, const real *, const int *, const real *, const int *,           \
                 const real *, real *, const int *, unsigned long, unsigned long)
FORTRAN_PROTOTYPE(sgemm_, float);
FORTRAN_PROTOTYPE(dgemm_, double);

#endif
