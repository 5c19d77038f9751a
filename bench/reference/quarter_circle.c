/* The kernel of flame_fast.kernels.estimate_batch by hand, in C with intrinsics: what a compiler's JIT is measured against.

   The same generator, the same points, the same count. Eight lanes of xoshiro256++ are one AVX-512 register for each of the
   four words of their state, or two of AVX2, which then fit into its sixteen together with everything else.

   Built and called by bench/kernels/test_kernels.py: cc -O3 -march=native -shared -fPIC. */

#include <immintrin.h>
#include <stdint.h>

enum { LANES = 8, BLOCK = 1 << 16, POINTS_OF_A_STEP = 2 * LANES, PI_DOMAIN = 1 };

static const uint32_t SURELY_INSIDE = (1u << 30) - 92684, SURELY_OUTSIDE = (1u << 30) + 92687;
static const uint32_t SHIFT = 0u - SURELY_INSIDE - 1, DOUBTFUL = SURELY_OUTSIDE - SURELY_INSIDE - 1;

static uint64_t rotate_left(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

/* ---- Threefry-4x64-20: the lanes' first states -------------------------------------------------------------------------- */

static void threefry(const uint64_t key[2], uint64_t block, uint64_t lane, uint64_t out[4])
{
    static const int BITS[8][2] = {{14, 16}, {52, 57}, {23, 40}, {5, 37}, {25, 33}, {46, 12}, {58, 22}, {32, 32}};
    const uint64_t keys[5] = {key[0], key[1], 0, 0, key[0] ^ key[1] ^ 0x1BD11BDAA9FC1A22u};
    uint64_t x[4] = {block + keys[0], lane + keys[1], PI_DOMAIN + keys[2], keys[3]};
    for (int round = 0; round < 20; round++) {
        const int odd = round & 1, *bits = BITS[round % 8];
        x[0] += x[odd ? 3 : 1];
        x[2] += x[odd ? 1 : 3];
        x[odd ? 3 : 1] = rotate_left(x[odd ? 3 : 1], bits[0]) ^ x[0];
        x[odd ? 1 : 3] = rotate_left(x[odd ? 1 : 3], bits[1]) ^ x[2];
        if (round % 4 == 3) {
            const int turn = round / 4 + 1;
            for (int i = 0; i < 4; i++)
                x[i] += keys[(turn + i) % 5];
            x[3] += turn;
        }
    }
    for (int i = 0; i < 4; i++)
        out[i] = x[i];
}

/* ---- vectors -------------------------------------------------------------------------------------------------------------- */

#ifdef __AVX512BW__
enum { PARTS = 1 };
typedef __m512i Vector;
#define OP(name) _mm512_##name
#define LOAD(place) _mm512_loadu_si512(place)
#define STORE(place, vector) _mm512_storeu_si512(place, vector)
#define ZERO _mm512_setzero_si512()
#define XOR _mm512_xor_si512
#define ROTATE_LEFT(vector, bits) _mm512_rol_epi64(vector, bits)
static int any_below(const Vector norms[PARTS], uint32_t limit)
{
    return _mm512_cmplt_epu32_mask(norms[0], _mm512_set1_epi32(limit)) != 0;
}
#elif defined(__AVX2__)
enum { PARTS = 2 };
typedef __m256i Vector;
#define OP(name) _mm256_##name
#define LOAD(place) _mm256_loadu_si256((const Vector *)(place))
#define STORE(place, vector) _mm256_storeu_si256((Vector *)(place), vector)
#define ZERO _mm256_setzero_si256()
#define XOR _mm256_xor_si256
#define ROTATE_LEFT(vector, bits) _mm256_or_si256(_mm256_slli_epi64(vector, bits), _mm256_srli_epi64(vector, 64 - (bits)))
static int any_below(const Vector norms[PARTS], uint32_t limit)
{
    const Vector least = _mm256_min_epu32(norms[0], norms[1]);
    const Vector clipped = _mm256_min_epu32(least, _mm256_set1_epi32(limit - 1));
    return !!_mm256_movemask_epi8(_mm256_cmpeq_epi32(clipped, least));
}
#else
#error "needs AVX-512 or AVX2"
#endif

struct lanes {
    Vector s0[PARTS], s1[PARTS], s2[PARTS], s3[PARTS];
};

static inline __attribute__((always_inline)) Vector advance(struct lanes *lanes, int i)
{
    const Vector s0 = lanes->s0[i], s1 = lanes->s1[i];
    const Vector s2 = XOR(lanes->s2[i], s0), s3 = XOR(lanes->s3[i], s1);
    const Vector sum = OP(add_epi64)(s0, lanes->s3[i]);
    lanes->s0[i] = XOR(s0, s3);
    lanes->s1[i] = XOR(s1, s2);
    lanes->s2[i] = XOR(s2, OP(slli_epi64)(s1, 17));
    lanes->s3[i] = ROTATE_LEFT(s3, 45);
    return OP(add_epi64)(ROTATE_LEFT(sum, 23), s0);
}

/* ---- points --------------------------------------------------------------------------------------------------------------- */

static uint64_t advance_one(uint64_t s[4])
{
    const uint64_t output = rotate_left(s[0] + s[3], 23) + s[0], shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return output;
}

static __attribute__((noinline)) int64_t refine(const Vector words[PARTS], const Vector norms[PARTS], uint64_t beside[4])
{
    int16_t upper[2 * POINTS_OF_A_STEP];
    uint32_t norm[POINTS_OF_A_STEP];
    int64_t inside = 0;
    for (int i = 0; i < PARTS; i++) {
        STORE(upper + i * (sizeof(Vector) / 2), words[i]);
        STORE(norm + i * (sizeof(Vector) / 4), norms[i]);
    }
    for (int point = 0; point < POINTS_OF_A_STEP; point++)
        if (norm[point] < DOUBTFUL) {
            const uint64_t lower = advance_one(beside);
            const int64_t x = (int64_t)upper[2 * point] * 65536 + (int64_t)(lower >> 48);
            const int64_t y = (int64_t)upper[2 * point + 1] * 65536 + (int64_t)(lower >> 32 & 0xFFFF);
            inside += x * x + y * y <= (int64_t)1 << 62;
        }
    return inside;
}

static int64_t count_block(const uint64_t key[2], uint64_t block)
{
    uint64_t state[4][LANES], beside[4], one[4];
    for (int lane = 0; lane < LANES; lane++) {
        threefry(key, block, lane, one);
        for (int i = 0; i < 4; i++)
            state[i][lane] = one[i];
    }
    threefry(key, block, LANES, beside);

    struct lanes lanes;
    Vector found[PARTS];
    for (int i = 0; i < PARTS; i++) {
        const int place = i * (LANES / PARTS);
        lanes.s0[i] = LOAD(state[0] + place);
        lanes.s1[i] = LOAD(state[1] + place);
        lanes.s2[i] = LOAD(state[2] + place);
        lanes.s3[i] = LOAD(state[3] + place);
        found[i] = ZERO;
    }

    int64_t inside = 0;
    for (int step = 0; step < BLOCK / POINTS_OF_A_STEP; step++) {
        Vector words[PARTS], norms[PARTS];
        for (int i = 0; i < PARTS; i++) {
            words[i] = advance(&lanes, i);
            norms[i] = OP(add_epi32)(OP(madd_epi16)(words[i], words[i]), OP(set1_epi32)(SHIFT));
            found[i] = OP(add_epi32)(found[i], OP(srli_epi32)(norms[i], 31));
        }
        if (__builtin_expect(any_below(norms, DOUBTFUL), 0))
            inside += refine(words, norms, beside);
    }

    uint32_t counts[POINTS_OF_A_STEP];
    for (int i = 0; i < PARTS; i++)
        STORE(counts + i * (sizeof(Vector) / 4), found[i]);
    for (int i = 0; i < POINTS_OF_A_STEP; i++)
        inside += counts[i];
    return inside;
}

/* How many points of the blocks from `first` to below `last`, whole ones, are inside. */
int64_t count_alone(uint64_t k0, uint64_t k1, int64_t first, int64_t last)
{
    const uint64_t key[2] = {k0, k1};
    int64_t inside = 0;
    for (int64_t block = first; block < last; block++)
        inside += count_block(key, block);
    return inside;
}
