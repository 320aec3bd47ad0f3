/* How "8-bit" attention quantises: what every backend does alike, so that one can be held against the other.
 *
 * In the spirit of SageAttention, with integers throughout: q and k as int8, the weights p as uint8, v as int8, sums
 * exact in int32. Against p and v in E4M3 the error is less than half (SPEED.md has the numbers), and chips since sm_80
 * have the instructions.
 *   k      minus its mean over the tokens, which the softmax does not see
 *   q, k   each head's 128 features times a fixed orthogonal matrix (signs, then Hadamard), which leaves q k^T as it
 *          is and spreads channels that stand out; one scale per row of q, one per group of keys
 *   v      minus its mean over the tokens, over its deviation, per channel; one scale per group of keys. That scale
 *          goes into the weights: as its logarithm into the exponent, and out of the denominator again. The output
 *          gets the mean back (weights sum to one), and with it the mean of what rounding lost: where values crowd
 *          around one point all are rounded the same way, and the average of many would keep that error
 *   p      of a tile of 128 keys in steps of 1/255 of the row's largest in this tile, not in the row: small tiles keep
 *          their digits. The denominator sums the rounded weights.
 * Keys of a tile fall into four groups: those whose scores one lane of a tensor-core product holds, so that each lane has one scale.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_ATTENTION8_H
#define RF_ENGINE_ATTENTION8_H

#define RF_A8_DIM 128        /* of a head; others are computed exactly */
#define RF_A8_TILE 128       /* keys */
#define RF_A8_GROUPS 4       /* per tile */
#define RF_A8_LEAST_KEYS 1024 /* below, quantising costs as much as it saves: exact */
#define RF_A8_LOG2_LEVELS 7.99435343685886f /* log2(255) */
#define RF_A8_LEAST_SHARE 0.125f /* of the tile's largest v scale: a group of small values must keep digits of p */
#define RF_A8_LEAST_SCALE 1e-6f  /* of v, whose deviation is 1; keeps the logarithm finite */

#define RF_A8_GROUP(key) ((key) % 8 / 2)

/* Where a key's value lies in its tile: the lane that holds scores 2c, 2c+1, 8+2c, 8+2c+1 of sixteen must find them at
 * 4c .. 4c+3, for the accumulator of q k^T is the operand of p v as it stands. */
#define RF_A8_SLOT(key) ((key) / 16 * 16 + (key) / 2 % 4 * 4 + (key) / 8 % 2 * 2 + (key) % 2)

/* The signs before the Hadamard matrix, feature i in bit i % 32 of word i / 32: without them a constant row, its first
 * row, would fall into one feature. Any bits without a pattern do. */
#define RF_A8_SIGNS {0x5a1f94c6u, 0xb37c028du, 0x1e6dd953u, 0xc48b36f1u}

#endif
