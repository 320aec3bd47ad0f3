/* Mersenne twister MT19937 and the Box-Muller transform in PyTorch's order; see noise.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/noise.h"

#include <math.h>

#define STATE 624
#define MIDDLE 397
#define GROUP 16 /* torch transforms sixteen values at a time: radii in the first half, angles in the second */

struct twister {
    uint32_t state[STATE];
    int at; /* STATE: the next number needs a new state */
};

static void seed_twister(struct twister *t, uint32_t seed)
{
    t->state[0] = seed;
    for (uint32_t i = 1; i < STATE; i++)
        t->state[i] = 1812433253u * (t->state[i - 1] ^ t->state[i - 1] >> 30) + i;
    t->at = STATE;
}

static void renew(struct twister *t)
{
    uint32_t *s = t->state;
    for (int i = 0; i < STATE; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % STATE] & 0x7fffffffu);
        s[i] = s[(i + MIDDLE) % STATE] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    t->at = 0;
}

/* 24 random bits in [0, 1). */
static float uniform(struct twister *t)
{
    if (t->at == STATE)
        renew(t);
    uint32_t y = t->state[t->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    y ^= y >> 18;
    return (float)(y & 0xffffff) * 0x1p-24f;
}

static void transform(float *d)
{
    for (int j = 0; j < GROUP / 2; j++) {
        float radius = sqrtf(-2.0f * logf(1.0f - d[j])), angle = 2.0f * 3.14159265358979f * d[j + GROUP / 2];
        d[j] = radius * cosf(angle);
        d[j + GROUP / 2] = radius * sinf(angle);
    }
}

enum rf_code rf_noise_normal(uint64_t seed, float *values, int64_t n, struct rf_err *err)
{
    if (n < GROUP)
        return rf_fail(err, RF_ERR_INVALID, "%lld noise values; at least %d are needed", (long long)n, GROUP);
    struct twister t;
    seed_twister(&t, (uint32_t)seed);
    for (int64_t i = 0; i < n; i++)
        values[i] = uniform(&t);
    for (int64_t i = 0; i + GROUP <= n; i += GROUP)
        transform(values + i);
    if (n % GROUP != 0) { /* the last sixteen are drawn again, overlapping the group before */
        float *last = values + n - GROUP;
        for (int i = 0; i < GROUP; i++)
            last[i] = uniform(&t);
        transform(last);
    }
    return RF_OK;
}
