/* A C program that gets functions from fastvi and calls them without the GIL; test_cfuncs.py reads its output. */
#include <Python.h>

#include "fastvi.h"

#include <math.h>
#include <stdio.h>

/* p(z) = exp(-z), p(x | z) = N(x | z, 1): on the whole line, the posterior is N(x - 1, 1). */
static double log_joint(const double *z, void *data)
{
    const double gap = *(const double *)data - z[0];
    return -z[0] - 0.5 * gap * gap - 0.5 * log(2.0 * 3.14159265358979323846);
}

int main(void)
{
    const double p[] = {0.36, 0.48, 0.16}, q[] = {0.30, 0.50, 0.20}, counts[] = {3.0, 1.0, 0.0};
    double x = 2.0, out, fit[FASTVI_FIT_SIZE];
    int status;

    Py_Initialize();
    fastvi_kl kl = FASTVI_GET(kl);
    fastvi_js js = FASTVI_GET(js);
    fastvi_entropy entropy = FASTVI_GET(entropy);
    fastvi_fit_1d fit_1d = FASTVI_GET(fit_1d);
    if (!kl || !js || !entropy || !fit_1d) {
        PyErr_Print();
        return 1;
    }
    if (fastvi_address("no_such_function") || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return 2;
    PyErr_Clear();

    PyThreadState *state = PyEval_SaveThread();
    status = kl(p, q, 3, FASTVI_UNIT, &out);
    printf("kl %d %.17g\n", status, out);
    status = js(p, q, 3, FASTVI_UNIT, &out);
    printf("js %d %.17g\n", status, out);
    status = entropy(counts, 3, FASTVI_NORMALIZE, &out);
    printf("entropy %d %.17g\n", status, out);
    status = kl(counts, q, 3, FASTVI_UNIT, &out);
    printf("counts %d %.17g\n", status == FASTVI_INVALID, out);
    status = fit_1d(log_joint, &x, FASTVI_REAL, 0.0, 0.0, 0.0, 1.0, 1e-10, fit);
    printf("mean %d %.17g\n", status, fit[FASTVI_FIT_MEAN]);
    printf("deviation %d %.17g\n", status, fit[FASTVI_FIT_DEVIATION]);
    printf("elbo %d %.17g\n", status, fit[FASTVI_FIT_ELBO]);
    PyEval_RestoreThread(state);
    return Py_FinalizeEx() ? 3 : 0;
}
