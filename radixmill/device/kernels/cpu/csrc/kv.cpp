// What keys and values become, and where in their pages they go.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "engine.hpp"

namespace radixmill {

namespace {

// The first positions of one page: keys lie transposed, values and latents row by row.
template <class T>
void copy_positions(const Pages& kv, int src, int dst, int tokens) {
  const size_t stride = kv.stride(), width = kv.width(), bytes = size_t(tokens) * sizeof(T);
  T *to_keys = (T*)kv.keys + dst * kv.key_page(), *to_values = (T*)kv.values + dst * kv.value_page();
  const T *from_keys = (T*)kv.keys + src * kv.key_page(), *from_values = (T*)kv.values + src * kv.value_page();
  for (size_t i = 0; !kv.latent && i < size_t(kv.groups) * kv.dim; i++)
    memcpy(to_keys + i * stride, from_keys + i * stride, bytes);
  for (size_t g = 0; g < size_t(kv.groups); g++) {
    const size_t at = g * kv.page_size * width;
    memcpy(to_values + at, from_values + at, bytes * width);
  }
}

void copy_scales(const Pages& kv, float* scales, int src, int dst, int tokens) {
  for (size_t g = 0; g < size_t(kv.groups); g++)
    memcpy(scales + dst * kv.scale_page() + g * kv.stride(), scales + src * kv.scale_page() + g * kv.stride(),
           size_t(tokens) * 4);
}

// A key goes down a column: every stride-th item.
template <class T>
void scatter(T* column, const T* key, int n, size_t stride) {
  for (int d = 0; d < n; d++) column[d * stride] = key[d];
}

}  // namespace

void check_positions(const int32_t* positions, int tokens, int limit, const char* op) {
  for (int i = 0; i < tokens; i++)
    if (positions[i] < 0 || positions[i] >= limit)
      throw std::out_of_range(std::string(op) + ": position outside the table");
}

void check(const Pages& kv, const Ragged& ragged) {
  if (ragged.query_starts[0] != 0) throw std::invalid_argument("query_starts must begin with 0");
  for (int r = 0; r < ragged.rows; r++) {
    const int queries = ragged.queries(r), pages = ragged.page_starts[r + 1] - ragged.page_starts[r];
    if (queries < 0 || ragged.starts[r] < 0 || pages < 0) throw std::invalid_argument("ragged: negative length");
    if (queries && int64_t(ragged.starts[r]) + queries > int64_t(pages) * kv.page_size)
      throw std::invalid_argument("ragged: too few pages");
    for (int i = ragged.page_starts[r]; i < ragged.page_starts[r + 1]; i++)
      if (ragged.page_ids[i] < 0 || ragged.page_ids[i] >= kv.pages) throw std::out_of_range("ragged: no such page");
  }
}

// f(token, page, slot, memory) for every token of the batch; memory: so many floats.
template <class F>
void Engine::each_position(const Pages& kv, const Ragged& ragged, int64_t cost, size_t floats, const F& f) {
  spread(ragged.query_starts[ragged.rows], cost, [&](int64_t from, int64_t to, int worker) {
    float* memory = scratch(worker, floats);
    const int32_t* ends = ragged.query_starts + 1;
    int row = int(std::upper_bound(ends, ends + ragged.rows, int32_t(from)) - ends);
    for (int64_t token = from; token < to; token++) {
      while (token >= ragged.query_starts[row + 1]) row++;
      const int position = ragged.starts[row] + int(token) - ragged.query_starts[row];
      const int page = ragged.page_ids[ragged.page_starts[row] + position / kv.page_size];
      f(token, size_t(page), position % kv.page_size, memory);
    }
  });
}

void Engine::store_latent(const Pages& kv, const float* key, size_t page, int slot, int group) {
  const size_t row = (size_t(group) * kv.page_size + slot) * kv.width(), bytes = kv.width() * kv.item();
  uint8_t* to = kv.keys + (page * kv.key_page() + row) * kv.item();
  memset(to, 0, bytes);
  switch (kv.kind) {
    case KV::f32: memcpy(to, key, size_t(kv.dim) * 4); break;
    case KV::f16: kernels_.to_half(key, (uint16_t*)to, kv.dim); break;
    case KV::int8:
      kv.key_scales[page * kv.scale_page() + group * kv.stride() + slot] = kernels_.to_int8(key, (int8_t*)to, kv.dim);
      break;
  }
}

// Floats of memory that store_head() needs.
size_t Engine::room(const Pages& kv) { return 2 * size_t(kv.dim); }

void Engine::store_head(const Pages& kv, const float* key, const float* value, size_t page, int slot, int group,
                        float* memory) {
  if (kv.latent) return store_latent(kv, key, page, slot, group);
  const size_t stride = kv.stride(), to_key = page * kv.key_page() + size_t(group) * kv.dim * stride + slot,
               to_value = page * kv.value_page() + (size_t(group) * kv.page_size + slot) * kv.width(),
               to_scale = page * kv.scale_page() + group * stride + slot;
  float *turned = memory, *stored = memory + kv.dim;
  switch (kv.kind) {
    case KV::f32:
      scatter((float*)kv.keys + to_key, key, kv.dim, stride);
      memcpy((float*)kv.values + to_value, value, size_t(kv.value_dim) * 4);
      break;
    case KV::f16:
      kernels_.to_half(key, (uint16_t*)stored, kv.dim);
      scatter((uint16_t*)kv.keys + to_key, (const uint16_t*)stored, kv.dim, stride);
      kernels_.to_half(value, (uint16_t*)kv.values + to_value, kv.value_dim);
      break;
    case KV::int8:
      memcpy(turned, key, size_t(kv.dim) * 4);
      kernels_.rotate(turned, kv.dim, 1);
      kv.key_scales[to_scale] = kernels_.to_int8(turned, (int8_t*)stored, kv.dim);
      scatter((int8_t*)kv.keys + to_key, (const int8_t*)stored, kv.dim, stride);
      kv.value_scales[to_scale] = kernels_.to_int8(value, (int8_t*)kv.values + to_value, kv.value_dim);
      break;
  }
}

void Engine::kv_store(const Pages& kv, const float* k, const float* v, const Ragged& ragged) {
  check(kv, ragged);
  const int64_t cost = int64_t(kv.groups) * (kv.dim + kv.value_dim);
  each_position(kv, ragged, cost, room(kv), [&](int64_t token, size_t page, int slot, float* memory) {
    for (int g = 0; g < kv.groups; g++)
      store_head(kv, k + (token * kv.groups + g) * kv.dim, v + (token * kv.groups + g) * kv.value_dim, page, slot, g,
                 memory);
  });
}

// One token's heads, normed and rotated into y.
void Engine::turned(const float* x, float* y, int heads, int dim, const float* norm, const QkvJob& job, int position) {
  if (norm)
    for (int h = 0; h < heads; h++) kernels_.rms_norm(x + h * dim, norm, y + h * dim, dim, job.eps);
  else
    memcpy(y, x, size_t(heads) * dim * 4);
  const int64_t angle = int64_t(position) * job.half;
  kernels_.rope(y, heads, dim, job.cos + angle, job.sin + angle, job.half);
}

void Engine::qkv(const Pages& kv, const QkvJob& job, const Ragged& ragged, float* y) {
  check(kv, ragged);
  if (job.heads < 1) throw std::invalid_argument("qkv: no query heads");
  if (2 * job.half > kv.dim) throw std::invalid_argument("qkv: more rotated dimensions than the head has");
  const int tokens = ragged.query_starts[ragged.rows], queries = job.heads * kv.dim;
  check_positions(job.positions, tokens, job.limit, "qkv");
  const int64_t cost = queries + int64_t(kv.groups) * (kv.dim + kv.value_dim);
  const size_t floats = room(kv) + size_t(kv.groups) * kv.dim;
  each_position(kv, ragged, cost, floats, [&](int64_t token, size_t page, int slot, float* memory) {
    float* keys = memory + room(kv);
    const int position = job.positions[token];
    turned(job.k + token * job.k_stride, keys, kv.groups, kv.dim, job.k_norm, job, position);
    turned(job.q + token * job.q_stride, y + token * queries, job.heads, kv.dim, job.q_norm, job, position);
    const float* values = job.v + token * job.v_stride;
    for (int g = 0; g < kv.groups; g++)
      store_head(kv, keys + g * kv.dim, values + g * kv.value_dim, page, slot, g, memory);
  });
}

void Engine::latents(const Pages& kv, const LatentJob& job, const Ragged& ragged, float* y) {
  check(kv, ragged);
  const int rank = job.up->n(), rope = job.rope, nope = job.up->k();
  if (!kv.latent || rope < 0 || kv.groups != 1 || kv.dim != rank + rope || kv.value_dim != rank)
    throw std::invalid_argument("latents: pages of another shape");
  if (2 * job.half > rope) throw std::invalid_argument("latents: more rotated dimensions than the head has");
  const int tokens = ragged.query_starts[ragged.rows];
  check_positions(job.positions, tokens, job.limit, "latents");
  const int64_t heads = job.up->count(), query = job.query(), width = kv.dim;
  each_position(kv, ragged, kv.dim + heads * rope, size_t(kv.dim), [&](int64_t token, size_t page, int slot, float* key) {
    const int64_t angle = int64_t(job.positions[token]) * job.half;
    const auto turn = [&](const float* x, float* out) {
      memcpy(out, x, size_t(rope) * 4);
      kernels_.rope(out, 1, rope, job.cos + angle, job.sin + angle, job.half);
    };
    const float* latent = job.latent + token * kv.dim;
    kernels_.rms_norm(latent, job.norm, key, rank, job.eps);
    turn(latent + rank, key + rank);
    store_latent(kv, key, page, slot, 0);
    for (int64_t h = token * heads; h < (token + 1) * heads; h++) turn(job.q + h * query + nope, y + h * width + rank);
  });
  this->heads(*job.up, {job.q, heads * query, query}, tokens, {y, heads * width, width});
}

void Engine::kv_copy(const Pages& kv, int src, int dst, int tokens) {
  if (src < 0 || src >= kv.pages || dst < 0 || dst >= kv.pages) throw std::out_of_range("kv_copy: no such page");
  if (tokens < 0 || tokens > kv.page_size) throw std::out_of_range("kv_copy: more tokens than a page has");
  switch (kv.kind) {
    case KV::f32: return copy_positions<float>(kv, src, dst, tokens);
    case KV::f16: return copy_positions<uint16_t>(kv, src, dst, tokens);
    case KV::int8:
      copy_positions<int8_t>(kv, src, dst, tokens);
      copy_scales(kv, kv.key_scales, src, dst, tokens);
      if (!kv.latent) copy_scales(kv, kv.value_scales, src, dst, tokens);
  }
}

}  // namespace radixmill
