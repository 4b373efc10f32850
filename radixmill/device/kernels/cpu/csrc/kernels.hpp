// What one instruction set provides: plain functions over raw pointers, each computing whole rows or panels.
// Nothing here knows of threads, Python or memory ownership. The bits of an output row depend on its inputs alone.
#pragma once
#include <cstddef>
#include <cstdint>

#include "formats.hpp"

namespace radixmill {

// Rows of K activations as int8, a scale per group of 32.
struct Codes {
  int8_t* codes;    // [t, k]; null: there are none
  float* scales;    // [t, k / 32]
  float* sums;      // [t, k / 32]: scale · Σ codes
  int32_t* minus;   // [t, k / 32]: −Σ codes
  int16_t* halves;  // [t, k / 16]: Σ codes

  Codes row(int64_t t, int k) const {
    const int64_t groups = t * (k / kGroup);
    return {codes + t * k, scales + groups, sums + groups, minus + groups, halves + 2 * groups};
  }
};

struct LinearJob {
  Format format;
  const uint8_t* panels;
  int t, n, k;
  const float* x;     // [t, k]: the f32 path; null where there are
  Codes codes;        // the int8 path
  const float* bias;  // [n] or null
  float* y;           // [t, n], rows `stride` floats apart
  size_t stride;
  bool add;  // to what y holds
};

enum class Activation : int { silu, gelu_tanh, gelu };

// One query block of one row against one key/value head: `queries` tokens × `rep` heads that share it.
struct AttentionJob {
  bool half;           // f16 keys and values, else f32
  const void* keys;    // [pages, G, D, stride_p]: transposed, so that neighbouring keys are one vector
  const void* values;  // [pages, G, P, stride_d]
  int groups, page_size, dim, value_dim;
  int heads;
  float scale, softcap;     // softcap 0: none
  int window;               // 0: none
  const int32_t* page_ids;  // the row's
};

struct Kernels {
  const char* isa;
  int lanes;  // rows of a weight panel; floats in a vector: 8 or 16
  // Floats of scratch that linear() needs for `t` rows, and attention() for its job.
  size_t (*linear_scratch)(int t);
  void (*linear)(const LinearJob&, int first_panel, int last_panel, float* scratch);
  void (*quantise)(const float* x, int k, Codes row);
  void (*rms_norm)(const float* x, const float* weight, float* y, int k, float eps);
  void (*add)(float* x, const float* y, size_t n);
  void (*scale)(const float* x, float* y, size_t n, float by);
  void (*softcap)(const float* x, float* y, size_t n, float cap);
  void (*gated)(const float* gate, const float* up, float* y, int f, Activation);
  void (*rope)(float* x, int heads, int dim, const float* cos, const float* sin, int half);
  void (*to_half)(const float* x, uint16_t* y, int n);
  size_t (*attention_scratch)(const AttentionJob&, int queries);
  // q, y: of the block's first token, [queries, heads, dim]; `position` is the first token's; `group` the key head.
  void (*attention)(const AttentionJob&, const float* q, float* y, int queries, int position, int group,
                    float* scratch);
};

const Kernels& portable_kernels();
#ifdef RADIXMILL_AVX2
const Kernels& avx2_kernels();
#endif
#ifdef RADIXMILL_AVX512
const Kernels& avx512_kernels();
#endif
#ifdef RADIXMILL_NEON
const Kernels& neon_kernels();
#endif
#ifdef RADIXMILL_NEON_DOTPROD
const Kernels& neon_dotprod_kernels();
#endif

constexpr int kMostLanes = 16;

// The next whole number of vectors; lanes is a power of two.
static constexpr int pad(int n, int lanes) { return (n + lanes - 1) & ~(lanes - 1); }

}  // namespace radixmill
