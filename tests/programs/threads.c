/* A library that is handed addresses and calls them from two threads of its own at once. */
#include "fastvi.h"

#include <math.h>
#include <pthread.h>

#define FITS 20000

typedef struct {
    fastvi_kl kl;
    fastvi_fit_1d fit_1d;
    double shift;   /* of this thread's data */
    int wrong;
} task;

static double log_joint(const double *z, void *data)
{
    const double gap = *(const double *)data - z[0];
    return -0.5 * gap * gap;
}

static void *work(void *argument)
{
    task *t = argument;
    for (int i = 0; i < FITS; i++) {
        double x = t->shift + i, out, fit[FASTVI_FIT_SIZE];
        double p[] = {0.25, 0.75}, q[] = {0.5, 0.5};
        int status = t->fit_1d(log_joint, &x, FASTVI_REAL, 0.0, 0.0, 0.0, 1.0, 1e-8, fit);
        t->wrong += !(status == FASTVI_FINE && fabs(fit[FASTVI_FIT_MEAN] - x) < 1e-9 * (1.0 + fabs(x)));
        status = t->kl(p, q, 2, FASTVI_UNIT, &out);
        t->wrong += !(status == FASTVI_FINE && fabs(out - (log(2.0) + 0.25 * log(0.25) + 0.75 * log(0.75))) < 1e-15);
    }
    return 0;
}

/* How many results were wrong; -1 where a thread could not be started. */
int in_two_threads(fastvi_kl kl, fastvi_fit_1d fit_1d)
{
    task tasks[2] = {{kl, fit_1d, -20000.0, 0}, {kl, fit_1d, 20000.0, 0}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], 0, work, &tasks[i]))
            return -1;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], 0);
    return tasks[0].wrong + tasks[1].wrong;
}
