/* Losses of one row of logits at a time: a few passes that stay in the second-level cache instead of a dozen over the
 * whole chunk.
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

/* T^2 KL(teacher || student at T) and cross-entropy, with their gradient.
 * s [rows, V]: student logits in, gradient out. t [rows, Vt]: teacher logits, or NULL for cross-entropy alone.
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

/* The same against a truncated teacher, of whose row only K outcomes are named.
 * ids [rows, K]: named outcomes, each once, -1 for none. logp [rows, K + 1]: their log-probabilities at T, and as the last
 * that of all others together (-inf: the named ones stand for all). Other arguments as above; scratch: 2 V floats.
 * With q the student at T, q_r what it leaves for the others, P = sum of p over the named:
 *   d/ds_v = q_v (P + p_r) - p_v           for a named v
 *            q_v (P + p_r - p_r / q_r)     for any other
 */
void topk_kl_ce_rows(float *s, const int64_t *labels, const int64_t *ids, const float *logp, int64_t first, int64_t last,
                     int64_t V, int64_t K, float T, const float *soft, const float *hard, float *scratch, float *kl,
                     float *ce) {
    const float over_T = 1.0f / T;
    for (int64_t row = first; row < last; row++) {
        float *restrict a = s + row * V;
        float *restrict hot = scratch;
        float *restrict soft_q = scratch + V;
        const int64_t *restrict named = ids + row * K;
        const float *restrict lp = logp + row * (K + 1);
        const int64_t label = labels[row];
        const float top = max_of(a, V);
        const float *restrict e = T == 1.0f ? hot : soft_q;
        double z1 = 0.0, zs = 0.0;
        for (int64_t from = 0; from < V; from += 4096) {
            const int64_t to = from + 4096 < V ? from + 4096 : V;
            float sum_1 = 0.0f, sum_T = 0.0f;
#pragma omp simd reduction(+ : sum_1)
            for (int64_t v = from; v < to; v++) {
                hot[v] = exp_below(a[v] - top);
                sum_1 += hot[v];
            }
            if (e == soft_q) {
#pragma omp simd reduction(+ : sum_T)
                for (int64_t v = from; v < to; v++) {
                    soft_q[v] = exp_below((a[v] - top) * over_T);
                    sum_T += soft_q[v];
                }
            }
            z1 += sum_1;
            zs += sum_T;
        }
        if (e == hot) zs = z1;
        ce[row] = (float)(log(z1) - ((double)a[label] - (double)top));
        double value = 0.0, P = 0.0, q_named = 0.0;
        for (int64_t k = 0; k < K; k++) {
            if (named[k] < 0) continue;
            const double p = exp((double)lp[k]);
            P += p;
            q_named += e[named[k]] / zs;
            if (p > 0.0) value += p * ((double)lp[k] - ((double)a[named[k]] - (double)top) * over_T + log(zs));
        }
        double p_r = lp[K] > -80.0f ? exp((double)lp[K]) : 0.0;
        const double q_r = 1.0 - q_named;
        const double least = 1.1920929e-07; /* as support.py: below it, the student's remainder has no gradient */
        if (p_r > 0.0) value += p_r * ((double)lp[K] - log(q_r > least ? q_r : least));
        if (q_r <= least) p_r = 0.0;
        kl[row] = (float)(value * T * T);
        const double weight = (double)soft[row] * T / zs;
        const float h = hard[row] / (float)z1;
        const float others = (float)(weight * (P + p_r - (p_r > 0.0 ? p_r / q_r : 0.0)));
#pragma omp simd
        for (int64_t v = 0; v < V; v++) a[v] = others * e[v] + h * hot[v];
        for (int64_t k = 0; k < K; k++) {
            const int64_t v = named[k];
            if (v < 0) continue;
            a[v] = (float)(weight * (P + p_r) * e[v] - (double)soft[row] * T * exp((double)lp[k])) + h * hot[v];
        }
        a[label] -= hard[row];
    }
}

/* What an evaluation asks of two rows at temperature 1; see compare() in rows.py. s and t are read only.
 * scratch: 2 V floats. out [rows, 4]: nll, kl, accept, conf. top [rows, 2]: argmax of s and of t.
 */
void compare_rows(const float *s, const float *t, const int64_t *labels, int64_t first, int64_t last, int64_t V, int64_t Vt,
                  int64_t shared, float *scratch, double *out, int64_t *top) {
    for (int64_t row = first; row < last; row++) {
        const float *restrict a = s + row * V;
        const float *restrict b = t + row * Vt;
        float *restrict q = scratch, *restrict p = scratch + V;
        int64_t best_a = 0, best_b = 0;
        for (int64_t v = 1; v < V; v++) best_a = a[v] > a[best_a] ? v : best_a;
        for (int64_t v = 1; v < Vt; v++) best_b = b[v] > b[best_b] ? v : best_b;
        const float top_a = a[best_a];
        const float top_b = max_of(b, shared);
        double z = 0.0, zs = 0.0, zt = 0.0, cross = 0.0, both = 0.0;
        for (int64_t from = 0; from < V; from += 4096) {
            const int64_t to = from + 4096 < V ? from + 4096 : V;
            const int64_t until = to < shared ? to : shared;
            float sum = 0.0f, sum_s = 0.0f, sum_t = 0.0f, sum_x = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t v = from; v < to; v++) {
                q[v] = exp_below(a[v] - top_a);
                sum += q[v];
            }
#pragma omp simd reduction(+ : sum_s, sum_t, sum_x)
            for (int64_t v = from; v < until; v++) {
                p[v] = exp_below(b[v] - top_b);
                sum_s += q[v];
                sum_t += p[v];
                sum_x += p[v] * ((b[v] - top_b) - (a[v] - top_a));
            }
            z += sum;
            zs += sum_s;
            zt += sum_t;
            cross += sum_x;
        }
        const float over_s = (float)(1.0 / zs), over_t = (float)(1.0 / zt);
        for (int64_t from = 0; from < shared; from += 4096) {
            const int64_t to = from + 4096 < shared ? from + 4096 : shared;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t v = from; v < to; v++) {
                const float x = q[v] * over_s, y = p[v] * over_t;
                sum += x < y ? x : y;
            }
            both += sum;
        }
        out[4 * row] = log(z) - ((double)a[labels[row]] - (double)top_a);
        out[4 * row + 1] = cross / zt + log(zs) - log(zt);
        out[4 * row + 2] = both;
        out[4 * row + 3] = 1.0 / z;
        top[2 * row] = best_a;
        top[2 * row + 1] = best_b;
    }
}
