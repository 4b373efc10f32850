// What one instruction set provides: plain functions over raw pointers, each computing whole rows or panels.
// Nothing here knows of threads, Python or memory ownership. The bits of an output row depend on its inputs alone.
#pragma once
#include <cstddef>
#include <cstdint>

#include "beat.hpp"
#include "formats.hpp"

namespace radixmill {

// Rows of K activations as int8, a scale per group of 32.
struct Codes {
  int8_t* codes;    // [t, k]; null: there are none
  float* scales;    // [t, k / 32]
  float* sums;      // [t, k / 32]: scale · Σ codes
  int32_t* minus;   // [t, k / 32]: −Σ codes
  int16_t* halves;  // [t, k / 16]: Σ codes

  // Inlined wherever it is used: units for different instruction sets may not share a copy.
  __attribute__((always_inline)) Codes row(int64_t t, int k) const {
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
  const uint16_t* pairs;  // [t, k + k % 2]: the bf16 path
  const float* bias;  // [n] or null
  float* y;           // [t, n], rows `stride` floats apart
  size_t stride;
  bool add;  // to what y holds
  uint64_t* word = nullptr;  // to be counted up on the way, see beat.hpp; null where the way is short
  size_t apart = 0;          // floats between rows of x; 0: k

  __attribute__((always_inline)) size_t pitch() const { return apart ? apart : size_t(k); }
};

enum class Activation : int { silu, gelu_tanh, gelu, clamped };

// How keys and values are kept. int8: one scale per token and head.
enum class KV : int { f32, f16, int8 };
static constexpr size_t item_bytes(KV kind) { return kind == KV::f32 ? 4 : kind == KV::f16 ? 2 : 1; }

// One layer's attention for one row.
struct AttentionJob {
  KV kind;
  const void* keys;    // [pages, G, D, stride_p]: transposed, so that neighbouring keys are one vector
  const void* values;  // [pages, G, P, stride_d]
  const float *key_scales, *value_scales;  // [pages, G, stride_p]; null unless int8
  int groups, page_size, dim, value_dim;
  int heads;
  float scale, softcap;     // softcap 0: none
  int window;               // 0: none
  const float* sinks;       // [heads] or null
  const int32_t* page_ids;  // the row's
  uint64_t* word = nullptr;  // to be counted up on the way, see beat.hpp
  // Latent pages: keys are [pages, G, P, padded D], and a value is the first numbers of its key; `values` and
  // `value_scales` point to the same memory.
  bool latent = false;
  int share = 0;  // the most query heads that a block has; 0: all of a key/value head
  bool fast = false;  // latents may be seen as integers, see Ops.attention in contract.py
};
static constexpr int shared_heads(const AttentionJob& job) { return job.share ? job.share : job.heads / job.groups; }

// Some neighbouring queries of the row, and the heads of them that are looked at together: neighbours with one key/value
// head, no more than shared_heads().
struct AttentionBlock {
  const float* q;  // of the first query, [queries, heads, D]
  float* y;        // [queries, heads, Dv]
  int queries, position;  // of the first
  int head, heads;        // [head, head + heads)
};

// A softmax begins afresh at every span of about this many positions, and spans are joined in their order.
constexpr int kSpan = 256;
static constexpr int span_pages(int page_size) { return page_size < kSpan ? kSpan / page_size : 1; }

// The spans [first, end) that a block sees anything of.
struct Spans {
  int first, end;
};
static inline Spans spans_of(const AttentionJob& job, const AttentionBlock& block) {
  const int size = span_pages(job.page_size) * job.page_size;
  const int oldest = job.window && block.position >= job.window ? block.position - job.window + 1 : 0;
  return {oldest / size, (block.position + block.queries - 1) / size + 1};
}

struct Kernels {
  const char* isa;
  int lanes;  // rows of a weight panel; floats in a vector: 8 or 16
  void (*to_bf16)(const float* x, int k, uint16_t* row);  // null: bf16 weights take the f32 path
  // Floats of scratch that linear() needs for `t` rows, and attention() for its job.
  size_t (*linear_scratch)(int t);
  void (*linear)(const LinearJob&, int first_panel, int last_panel, float* scratch);
  void (*quantise)(const float* x, int k, Codes row);
  void (*rms_norm)(const float* x, const float* weight, float* y, int k, float eps);
  void (*layer_norm)(const float* x, const float* weight, float* y, int k, float eps);
  void (*add)(float* x, const float* y, size_t n);
  void (*add_scaled)(float* x, const float* y, size_t n, float by);  // x += y · by, rounded twice
  void (*scale)(const float* x, float* y, size_t n, float by);
  void (*softcap)(const float* x, float* y, size_t n, float cap);
  void (*gated)(const float* gate, const float* up, float* y, int f, Activation);
  void (*dim)(float* x, float gate, size_t n);  // times the gate's sigmoid
  void (*scores)(const float* logits, float* y, int n, bool sigmoid);  // else softmax
  void (*rope)(float* x, int heads, int dim, const float* cos, const float* sin, int half);
  void (*to_half)(const float* x, uint16_t* y, int n);
  void (*blocks)(Format from, const uint8_t* x, int k, Format to, uint8_t* out);
  // A Walsh–Hadamard transform of one head, times `scale`: it spreads what single values hold over all. With keys as they
  // come and queries times 1 / block, products of the two stay the same.
  void (*rotate)(float* x, int n, float scale);
  // Codes of one head, round(x / scale), and the scale: max|x| / 127, NaN if any value is not finite.
  float (*to_int8)(const float* x, int8_t* y, int n);
  size_t (*attention_scratch)(const AttentionJob&, int queries);
  void (*attention)(const AttentionJob&, const AttentionBlock&, float* scratch);
  // The same in two steps: each span for itself, to attention_state() floats; then those found, side by side, are added to
  // what the block's earlier ones came to, its first ones to nothing, one part of the block's rows at a time. With its last
  // ones it is done.
  size_t (*attention_state)(const AttentionJob&, int queries);
  void (*attention_span)(const AttentionJob&, const AttentionBlock&, int span, float* state, float* scratch);
  void (*attention_join)(const AttentionJob&, const AttentionBlock&, Spans found, float* states, float* so_far, int part,
                         int parts, float* scratch);
};

const Kernels& portable_kernels();
#ifdef RADIXMILL_AVX2
const Kernels& avx2_kernels();
#endif
#ifdef RADIXMILL_AVXVNNI
const Kernels& avxvnni_kernels();
#endif
#ifdef RADIXMILL_AVX512
const Kernels& avx512_kernels();
const Kernels& avx512bf16_kernels();
#endif
#ifdef RADIXMILL_NEON
const Kernels& neon_kernels();
#endif
#ifdef RADIXMILL_NEON_DOTPROD
const Kernels& neon_dotprod_kernels();
#endif

constexpr int kMostLanes = 16;
constexpr int kQueryTile = 6;  // queries that attention reads a page for at once: any number of heads makes whole sixes

// The next whole number of vectors; lanes is a power of two.
static constexpr int pad(int n, int lanes) { return (n + lanes - 1) & ~(lanes - 1); }

}  // namespace radixmill
