/* Makes every wrong call and checks what the error handler is told.
 *
 * Compiled as it is, each call is made in a process of its own, which the handler ends: checked are
 * its status and its message, or with NUMBERS_ONLY, for handlers of others, the number in the message.
 * Compiled with OWN_HANDLERS the handlers are here, and return, jump out or end the thread in
 * turn; with ONLY_FORTRAN_HANDLER beside it, one of them. They do what the reference's do with its
 * variables, where the process has them: the program with ROW_MAJOR_VARIABLE and CALL_VARIABLE, or
 * the BLAS that it is linked with. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blas.h"

enum { Rows = 101, Cols = 102, N = 111, T = 112, C = 113 };

/* m = 3, n = 4, k = 5 where they are right. A call of the Fortran routines is one with layout 0. */
static const struct wrong {
    int layout, trans_a, trans_b, m, n, k, lda, ldb, ldc, position;
    const char *detail;
} wrong_calls[] = {
    {100, N, N, 3, 4, 5, 9, 9, 9, 1, "Illegal layout setting, 100\n"},
    {-1, 9, 9, -1, -1, -1, 0, 0, 0, 1, "Illegal layout setting, -1\n"},
    {Cols, 110, N, 3, 4, 5, 9, 9, 9, 2, "Illegal TransA setting, 110\n"},
    {Rows, 0, 7, -1, 4, 5, 9, 9, 9, 2, "Illegal TransA setting, 0\n"},
    {Cols, T, 114, 3, 4, 5, 9, 9, 9, 3, "Illegal TransB setting, 114\n"},
    {Rows, C, 'T', 3, -4, 5, 9, 9, 9, 3, "Illegal TransB setting, 84\n"},
    {Cols, N, N, -1, 4, 5, 9, 9, 9, 4, ""},
    {Rows, N, N, -1, 4, 5, 9, 9, 9, 4, ""},
    {Cols, N, N, 3, -1, 5, 9, 9, 9, 5, ""},
    {Rows, N, N, 3, -1, 5, 9, 9, 9, 5, ""},
    {Cols, N, N, 3, 4, -1, 9, 9, 9, 6, ""},
    {Rows, N, N, 3, 4, -1, 9, 9, 9, 6, ""},
    {Cols, N, N, 3, 4, 5, 2, 5, 3, 9, ""},
    {Cols, N, N, 3, 4, 5, 3, 4, 3, 11, ""},
    {Cols, N, N, 3, 4, 5, 3, 5, 2, 14, ""},
    {Cols, T, N, 3, 4, 5, 4, 5, 3, 9, ""},
    {Cols, N, C, 3, 4, 5, 3, 3, 3, 11, ""},
    {Rows, N, N, 3, 4, 5, 4, 4, 4, 9, ""},
    {Rows, N, N, 3, 4, 5, 5, 3, 4, 11, ""},
    {Rows, N, N, 3, 4, 5, 5, 4, 3, 14, ""},
    {Rows, C, N, 3, 4, 5, 2, 4, 4, 9, ""},
    {Rows, N, T, 3, 4, 5, 5, 4, 4, 11, ""},
    /* Several are wrong: by rows the second operand comes first. */
    {Cols, N, N, -3, -4, -5, 0, 0, 0, 4, ""},
    {Rows, N, N, -3, -4, -5, 0, 0, 0, 5, ""},
    {Cols, N, N, 3, 4, 5, 0, 0, 0, 9, ""},
    {Rows, N, N, 3, 4, 5, 0, 0, 0, 11, ""},
    /* Nothing to do is no excuse. */
    {Cols, N, N, 0, 0, 0, 0, 1, 1, 9, ""},
    {Rows, N, N, 0, 0, 0, 1, 0, 1, 11, ""},
    {Cols, N, N, 0, 0, 0, 1, 1, 0, 14, ""},
    {0, 'X', 'N', 3, 4, 5, 9, 9, 9, 1, ""},
    {0, 0, 0, -3, 4, 5, 9, 9, 9, 1, ""},
    {0, 'n', 'R', 3, 4, 5, 9, 9, 9, 2, ""},
    {0, 'N', 'n', -3, -4, 5, 9, 9, 9, 3, ""},
    {0, 'T', 't', 3, -4, -5, 9, 9, 9, 4, ""},
    {0, 'C', 'c', 3, 4, -5, 0, 9, 9, 5, ""},
    {0, 'N', 'N', 3, 4, 5, 2, 4, 3, 8, ""},
    {0, 'T', 'N', 3, 4, 5, 4, 5, 3, 8, ""},
    {0, 'N', 'n', 3, 4, 5, 3, 4, 2, 10, ""},
    {0, 'N', 'C', 3, 4, 5, 3, 3, 3, 10, ""},
    {0, 't', 't', 3, 4, 5, 5, 4, 2, 13, ""},
};

#ifndef NUMBERS_ONLY
static const char *const routines[2][2] = {{"SGEMM ", "DGEMM "}, {"cblas_sgemm", "cblas_dgemm"}};
#endif

static void call(const struct wrong *w, int is_double) {
    static float floats[3][100];
    static double doubles[3][100];
    for (int i = 0; i < 100; i++) floats[2][i] = doubles[2][i] = i;
    const float s_one = 1, s_zero = 0;
    const double d_one = 1, d_zero = 0;
    const char trans_a = (char)w->trans_a, trans_b = (char)w->trans_b;
    if (w->layout == 0 && is_double)
        dgemm_(&trans_a, &trans_b, &w->m, &w->n, &w->k, &d_one, doubles[0], &w->lda, doubles[1],
               &w->ldb, &d_zero, doubles[2], &w->ldc, 1, 1);
    else if (w->layout == 0)
        sgemm_(&trans_a, &trans_b, &w->m, &w->n, &w->k, &s_one, floats[0], &w->lda, floats[1],
               &w->ldb, &s_zero, floats[2], &w->ldc, 1, 1);
    else if (is_double)
        cblas_dgemm(w->layout, w->trans_a, w->trans_b, w->m, w->n, w->k, 1, doubles[0], w->lda,
                    doubles[1], w->ldb, 0, doubles[2], w->ldc);
    else
        cblas_sgemm(w->layout, w->trans_a, w->trans_b, w->m, w->n, w->k, 1, floats[0], w->lda,
                    floats[1], w->ldb, 0, floats[2], w->ldc);
    for (int i = 0; i < 100; i++)
        if (floats[2][i] != i || doubles[2][i] != i) printf("C was touched\n");
}

#ifdef OWN_HANDLERS
static int told_position, told_times, way_out;
static char told_routine[40], told_detail[80];
static jmp_buf outside;

#ifdef ROW_MAJOR_VARIABLE
int RowMajorStrg;
#else
extern int RowMajorStrg __attribute__((weak));
#endif
#ifdef CALL_VARIABLE
int CBLAS_CallFromC;
#else
extern int CBLAS_CallFromC __attribute__((weak));
#endif

static int is_set(const int *variable) { return variable != NULL && *variable; }

static void set(int *variable, int value) {
    if (variable != NULL) *variable = value;
}

/* The position in the caller's list of one that a cblas_ routine reports. */
static int in_caller(int position) {
    static const int exchanged[] = {0, 1, 2, 3, 5, 4, 6, 7, 8, 11, 10, 9, 12, 13, 14};
    return is_set(&RowMajorStrg) ? exchanged[position] : position;
}

static void leave(void) {
    told_times++;
    if (way_out == 1) longjmp(outside, 1);
    if (way_out == 2) pthread_exit(NULL);
}

#ifndef ONLY_FORTRAN_HANDLER
void cblas_xerbla(int position, const char *routine, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    told_position = in_caller(position);
    snprintf(told_routine, sizeof told_routine, "%s", routine);
    vsnprintf(told_detail, sizeof told_detail, format, arguments);
    va_end(arguments);
    leave();
}
#endif

void xerbla_(const char *routine, const int *position, unsigned long length) {
    told_position = *position;
    snprintf(told_routine, sizeof told_routine, "%.*s", (int)length, routine);
    if (is_set(&CBLAS_CallFromC)) {
        told_position = in_caller(told_position + 1);
        if (strcmp(told_routine, routines[0][0]) == 0) strcpy(told_routine, routines[1][0]);
        if (strcmp(told_routine, routines[0][1]) == 0) strcpy(told_routine, routines[1][1]);
    }
    told_detail[0] = 0;
    leave();
}

struct one_call {
    const struct wrong *wrong;
    int is_double;
};

static void *in_thread(void *argument) {
    struct one_call *one = argument;
    call(one->wrong, one->is_double);
    return argument;
}

static int check(const struct wrong *w, int is_double) {
    struct one_call one = {w, is_double};
    for (way_out = 0; way_out < 3; way_out++) {
        pthread_t thread;
        void *returned = NULL;
        told_times = 0;
        /* What the last call may have left there is not what this one needs. */
        set(&RowMajorStrg, w->layout == Cols);
        set(&CBLAS_CallFromC, 0);
        if (way_out == 2) {
            pthread_create(&thread, NULL, in_thread, &one);
            pthread_join(thread, &returned);
        } else if (setjmp(outside) == 0) {
            returned = in_thread(&one);
        }
        int position = w->position;
        const char *detail = w->detail, *routine = routines[w->layout != 0][is_double];
#ifdef ONLY_FORTRAN_HANDLER
        detail = "";
#ifndef CALL_VARIABLE
        routine = routines[0][is_double];
        position -= w->layout != 0;
#endif
#endif
        if (way_out == 0 && w->layout != 0 && (is_set(&RowMajorStrg) || is_set(&CBLAS_CallFromC))) {
            printf("the variables are still set");
            return 0;
        }
        if (told_times != 1 || told_position != position || strcmp(told_detail, detail) != 0 ||
            strcmp(told_routine, routine) != 0 || (returned == &one) != (way_out == 0)) {
            printf("way out %d: told %d times %s %d %s", way_out, told_times, told_routine,
                   told_position, told_detail);
            return 0;
        }
    }
    return 1;
}
#else
/* Makes the call in a process of its own; its status, and what it printed. */
static int status_of(const struct wrong *w, int is_double, char *printed, size_t size) {
    int ends[2], status = -1;
    if (pipe(ends) != 0) return -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
#ifdef NUMBERS_ONLY
        /* The reference's xerbla_ writes to standard output. */
        dup2(ends[1], STDOUT_FILENO);
#endif
        call(w, is_double);
        exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t more; (more = read(ends[0], printed + length, size - 1 - length)) > 0;)
        length += more;
    printed[length] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

static int check(const struct wrong *w, int is_double) {
    char found[400];
    int status = status_of(w, is_double, found, sizeof found);
#ifdef NUMBERS_ONLY
    /* Of B's setting by rows the reference, up to 3.11, says 2. */
    if (w->layout == Rows && w->position == 3) return 1;
    const char *number = strpbrk(found, "0123456789");
    int right = number && atoi(number) == w->position;
#else
    char expected[200];
    const char *routine = routines[w->layout != 0][is_double];
    if (w->layout == 0)
        snprintf(expected, sizeof expected,
                 " ** On entry to %.5s parameter number %2d had an illegal value\n", routine,
                 w->position);
    else
        snprintf(expected, sizeof expected, "Parameter %d to routine %s was incorrect\n%s",
                 w->position, routine, w->detail);
    int right = strcmp(found, expected) == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 255;
#endif
    if (!right) printf("status %x, message %s", (unsigned)status, found);
    return right;
}
#endif

int main(void) {
    int failures = 0, count = sizeof wrong_calls / sizeof *wrong_calls;
    for (int i = 0; i < count; i++)
        for (int is_double = 0; is_double < 2; is_double++)
            if (!check(&wrong_calls[i], is_double)) {
                printf("^ wrong call %d of %s\n", i, is_double ? "doubles" : "floats");
                failures++;
            }
    printf("%s\n", failures ? "wrong reports" : "all reports are right");
    return failures != 0;
}
