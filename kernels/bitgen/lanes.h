/* A stream of 8 lanes of xoshiro256++ (Blackman and Vigna 2021), with the words of one step held back. */
#ifndef FF_BITGEN_LANES_H
#define FF_BITGEN_LANES_H

#include <stdint.h>
#include <string.h>

#define FF_LANES 8

typedef struct {
    uint64_t s[4][FF_LANES];
    uint64_t words[FF_LANES];
    int at; /* of the next word; FF_LANES: none is left */
    int has_half;
    uint32_t half;
} ff_lanes;

static inline uint64_t ff_rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline __attribute__((always_inline)) void ff_step_lanes(ff_lanes *g) {
    for (int i = 0; i < FF_LANES; i++) {
        uint64_t s0 = g->s[0][i], s1 = g->s[1][i], s2 = g->s[2][i], s3 = g->s[3][i], shifted = s1 << 17;
        g->words[i] = ff_rotate(s0 + s3, 23) + s0;
        s2 ^= s0;
        s3 ^= s1;
        g->s[1][i] = s1 ^ s2;
        g->s[0][i] = s0 ^ s3;
        g->s[2][i] = s2 ^ shifted;
        g->s[3][i] = ff_rotate(s3, 45);
    }
    g->at = 0;
}

static void ff_step_anywhere(ff_lanes *g) { ff_step_lanes(g); }

/* The compiler's own multiversioning goes through the linker's table at each call. */
static void (*ff_step)(ff_lanes *) = ff_step_anywhere;

#ifdef __x86_64__
__attribute__((target("avx2"))) static void ff_step_avx2(ff_lanes *g) { ff_step_lanes(g); }
#endif

static void ff_choose(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) ff_step = ff_step_avx2;
#endif
}

static uint64_t ff_next64(void *state) {
    ff_lanes *g = state;
    if (__builtin_expect(g->at == FF_LANES, 0)) ff_step(g);
    return g->words[g->at++];
}

static uint32_t ff_next32(void *state) {
    ff_lanes *g = state;
    if (g->has_half) {
        g->has_half = 0;
        return g->half;
    }
    uint64_t word = ff_next64(state);
    g->has_half = 1;
    g->half = (uint32_t)(word >> 32);
    return (uint32_t)word;
}

static double ff_next_double(void *state) { return (double)(ff_next64(state) >> 11) * 0x1p-53; }

/* Replace the states by those that a polynomial of the step, modulo its characteristic polynomial, makes of them. */
static void ff_apply(ff_lanes *g, const uint64_t polynomial[4]) {
    uint64_t sum[4][FF_LANES] = {{0}};
    for (int bit = 0; bit < 256; bit++) {
        uint64_t taken = 0 - (polynomial[bit / 64] >> (bit % 64) & 1);
        for (int word = 0; word < 4; word++)
            for (int i = 0; i < FF_LANES; i++) sum[word][i] ^= g->s[word][i] & taken;
        ff_step(g);
    }
    memcpy(g->s, sum, sizeof sum);
}

static void ff_threefry(const uint64_t key[2], uint64_t number, uint64_t lane, uint64_t out[4]) {
    static const int bits[2][8] = {{14, 16, 52, 57, 23, 40, 5, 37}, {25, 33, 46, 12, 58, 22, 32, 32}};
    uint64_t k[5] = {key[0], key[1], 0, 0, key[0] ^ key[1] ^ 0x1BD11BDAA9FC1A22u};
    uint64_t a = number + k[0], b = lane + k[1], c = 0, d = 0;
    for (int turn = 1; turn < 6; turn++) {
        const int *r = bits[(turn - 1) % 2];
        for (int i = 0; i < 8; i += 4) {
            a += b, b = ff_rotate(b, r[i]) ^ a;
            c += d, d = ff_rotate(d, r[i + 1]) ^ c;
            a += d, d = ff_rotate(d, r[i + 2]) ^ a;
            c += b, b = ff_rotate(b, r[i + 3]) ^ c;
        }
        a += k[turn % 5], b += k[(turn + 1) % 5], c += k[(turn + 2) % 5], d += k[(turn + 3) % 5] + turn;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

static void ff_begin(ff_lanes *g, uint64_t low, uint64_t high, uint64_t number) {
    const uint64_t key[2] = {low, high};
    memset(g, 0, sizeof *g);
    for (int lane = 0; lane < FF_LANES; lane++) {
        uint64_t state[4];
        ff_threefry(key, number, lane, state);
        for (int word = 0; word < 4; word++) g->s[word][lane] = state[word];
    }
    g->at = FF_LANES;
}

#endif
