/* KL(teacher || student) at a temperature and cross-entropy, with their gradient, one row of logits at a time.
 *
 * For each row: three passes that stay in the second-level cache instead of a dozen over the whole chunk. The gradient
 * takes the place of the student's logits; the teacher's logits are used up as scratch space.
 */
#include <math.h>
#include <stdint.h>

/* exp(x) for x <= 0, to about 2 ulp; written so that compilers vectorise it (no table, no branch). */
static inline float exp_below(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = rintf(x * 1.44269504088896341f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } scale;
    scale.i = ((int32_t)n + 127) << 23;
    return p * scale.f;
}

static inline float max_of(const float *x, int64_t n) {
    float m = x[0];
#pragma omp simd reduction(max : m)
    for (int64_t i = 1; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* s [rows, V]: student logits in, gradient out. t [rows, Vt]: teacher logits, or NULL for cross-entropy alone.
 * soft[i], hard[i]: what row i's two losses are multiplied by. scratch: 2 V floats. kl, ce: the unweighted losses.
 * The soft part lives on the first `shared` outcomes, which both vocabularies have.
 */
void kl_ce_rows(float *s, float *t, const int64_t *labels, int64_t first, int64_t last, int64_t V, int64_t Vt,
                int64_t shared, float T, const float *soft, const float *hard, float *scratch, float *kl, float *ce) {
    const float over_T = 1.0f / T;
    for (int64_t row = first; row < last; row++) {
        float *restrict a = s + row * V;
        float *restrict hot = scratch;      /* exp of the student's logits at T = 1 */
        float *restrict soft_q = scratch + V; /* and at T */
        const int64_t label = labels[row];
        const float at_label = a[label];
        const float top = max_of(a, V);
        double z1 = 0.0;
        for (int64_t from = 0; from < V; from += 4096) { /* float sums of a block, double over blocks */
            const int64_t to = from + 4096 < V ? from + 4096 : V;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t v = from; v < to; v++) {
                hot[v] = exp_below(a[v] - top);
                sum += hot[v];
            }
            z1 += sum;
        }
        ce[row] = (float)(log(z1) - ((double)at_label - (double)top));
        const float h = hard[row] / (float)z1;
        if (!t) {
            for (int64_t v = 0; v < V; v++) a[v] = h * hot[v];
            a[label] -= hard[row];
            continue;
        }
        float *restrict b = t + row * Vt;
        const float top_t = max_of(b, shared);
        const float top_s = shared == V ? top : max_of(a, shared);
        const float *restrict e = T == 1.0f && shared == V ? hot : soft_q;
        double zs = 0.0, zt = 0.0, cross = 0.0;
        for (int64_t from = 0; from < shared; from += 4096) {
            const int64_t to = from + 4096 < shared ? from + 4096 : shared;
            float sum_s = 0.0f, sum_t = 0.0f, sum_x = 0.0f;
            if (e == soft_q) {
#pragma omp simd
                for (int64_t v = from; v < to; v++) soft_q[v] = exp_below((a[v] - top_s) * over_T);
            }
#pragma omp simd reduction(+ : sum_s, sum_t, sum_x)
            for (int64_t v = from; v < to; v++) {
                const float difference = (b[v] - top_t) - (a[v] - top_s);
                const float p = exp_below((b[v] - top_t) * over_T);
                b[v] = p;
                sum_t += p;
                sum_s += e[v];
                sum_x += p * difference;
            }
            zs += sum_s;
            zt += sum_t;
            cross += sum_x;
        }
        kl[row] = (float)((cross / zt * over_T + log(zs) - log(zt)) * T * T);
        const float q = soft[row] * T / (float)zs, p = soft[row] * T / (float)zt;
#pragma omp simd
        for (int64_t v = 0; v < shared; v++) a[v] = q * e[v] - p * b[v] + h * hot[v];
        for (int64_t v = shared; v < V; v++) a[v] = h * hot[v];
        a[label] -= hard[row];
    }
}
