// linear: every stored kind, as floats and as int8.
#include "check.hpp"
#include "half.hpp"
#include "matrix.hpp"
#include "stored.hpp"

namespace radixmill {

namespace {

// Where each kind's blocks keep their f16 numbers (MXFP4: its first byte is an exponent).
struct StoredKind {
  const char* name;
  int scale, minimum;  // −1: none
};
constexpr StoredKind kStored[] = {
    {"F32", -1, -1},  {"F16", -1, -1},  {"BF16", -1, -1},  {"Q4_0", 0, -1},    {"Q4_1", 0, 2},    {"Q5_0", 0, -1},
    {"Q5_1", 0, 2},   {"Q8_0", 0, -1},  {"Q2_K", 80, 82},  {"Q3_K", 108, -1},  {"Q4_K", 0, 2},    {"Q5_K", 0, 2},
    {"Q6_K", 208, -1}, {"IQ4_NL", 0, -1}, {"IQ4_XS", 0, -1}, {"MXFP4", -1, -1}, {"F8B128", -1, -1},
};

enum class Bytes { random, zeros, ones };

void put_half(uint8_t* p, float value) {
  const uint16_t half = float_to_half(value);
  memcpy(p, &half, 2);
}

// A block of random, lowest or highest codes; scale and minimum as given.
void fill_block(const StoredKind& kind, size_t size, Bytes bytes, float scale, float minimum, Random& random,
                uint8_t* block) {
  for (size_t i = 0; i < size; i++)
    block[i] = bytes == Bytes::random ? uint8_t(random.bits()) : bytes == Bytes::zeros ? 0 : 255;
  if (kind.scale >= 0) put_half(block + kind.scale, scale);
  if (kind.minimum >= 0) put_half(block + kind.minimum, minimum);
}

std::vector<uint8_t> float_rows(const Kind& kind, int n, int k, Random& random) {
  std::vector<uint8_t> rows(size_t(n) * k * kind.bytes);
  for (size_t i = 0; i < size_t(n) * k; i++) {
    const float value = random.uniform();
    const uint32_t bits = float_to_bits(value);
    const uint16_t half = kind.format == Format::f16 ? float_to_half(value) : uint16_t(bits >> 16);
    if (kind.bytes == 4)
      memcpy(&rows[4 * i], &bits, 4);
    else
      memcpy(&rows[2 * i], &half, 2);
  }
  return rows;
}

std::vector<uint8_t> f8_rows(int n, int k, Random& random) {
  std::vector<uint8_t> rows;
  for (int block = 0; block < n * k / 128; block++) {
    const uint32_t scale = float_to_bits(random.uniform());
    for (int i = 0; i < 4; i++) rows.push_back(uint8_t(scale >> (8 * i)));
    for (int i = 0; i < 128; i++) rows.push_back(uint8_t(random.bits() % 127 | (random.bits() & 128)));
  }
  return rows;
}

std::vector<uint8_t> random_rows(const StoredKind& stored, int n, int k, Random& random) {
  const Kind& kind = *find_kind(stored.name, k);
  if (kind.format == Format::f8) return f8_rows(n, k, random);
  if (!is_quantised(kind.format)) return float_rows(kind, n, k, random);
  std::vector<uint8_t> rows(size_t(n) * k / layout(kind.format).block * kind.bytes);
  for (size_t at = 0; at < rows.size(); at += kind.bytes) {
    const float scale = random.uniform(), minimum = random.uniform();
    fill_block(stored, kind.bytes, Bytes::random, scale, minimum, random, &rows[at]);
    if (kind.format == Format::w4f) rows[at] = uint8_t(118 + random.bits() % 12);
  }
  return rows;
}

// Activations with a bit of everything: rows of very different sizes, zeros, and both ends of int8.
Floats activations(int t, int k, Random& random) {
  Floats x = random.floats(size_t(t) * k);
  for (int i = 0; i < t; i++)
    for (int j = 0; j < k; j++) {
      float& value = x[size_t(i) * k + j];
      if (i % 5 == 1) value *= 1e-3f;
      if (i % 5 == 2) value = j % 2 ? 1.0f : -1.0f;
      if (i % 5 == 3 && j / kGroup % 2) value = 0;
    }
  return x;
}

struct Product {
  const Kernels& kernels;
  const Matrix& matrix;
  const float* x = nullptr;
  Codes codes{};
  const float* bias = nullptr;
  bool add = false;

  // Rows [from, from + t) of y, `gap` floats of which lie between rows and stay as they are.
  Floats operator()(int from, int t, int gap = 0, float before = 0) const {
    const int n = matrix.n(), k = matrix.k();
    const size_t stride = size_t(n) + gap;
    Floats y(size_t(t) * stride, before), scratch(kernels.linear_scratch(t));
    const LinearJob job{matrix.format(), matrix.data(), t, n, k, x ? x + size_t(from) * k : nullptr,
                        codes.codes ? codes.row(from, k) : Codes{}, nullptr, bias, y.data(), stride, add};
    const int middle = matrix.panels() / 2;
    kernels.linear(job, 0, middle, scratch.data());
    kernels.linear(job, middle, matrix.panels(), scratch.data());
    return y;
  }
};

// x [t, K] · Wᵀ in double.
Doubles reference(const Matrix& matrix, const Doubles& x, int t) {
  const int n = matrix.n(), k = matrix.k();
  Floats row(k);
  Doubles y(size_t(t) * n);
  for (int c = 0; c < n; c++) {
    matrix.row(c, 1.0f, row.data());
    for (int i = 0; i < t; i++)
      for (int j = 0; j < k; j++) y[size_t(i) * n + c] += x[size_t(i) * k + j] * double(row[j]);
  }
  return y;
}

// The product is right; a row has the same bits whatever its company; bias and what y held come on top of it.
void check_product(Product product, const Doubles& x, int t, const std::string& what, Report& report) {
  const Matrix& matrix = product.matrix;
  const int n = matrix.n();
  const Doubles want = reference(matrix, x, t);
  const Floats all = product(0, t);
  report.near(all, want, 3e-6, what);
  report.mix(all);
  for (int size : {1, 2, 3, 7, 16})
    for (int from = 0; from + size <= t; from += size)
      report.same(product(from, size), Floats(&all[size_t(from) * n], &all[size_t(from) * n] + size_t(size) * n),
                  what + ": rows alone and in company, " + std::to_string(size));
  Floats bias = Random(5).floats(n), sums(size_t(t) * (n + 3), 0.25f);
  for (int i = 0; i < t; i++)
    for (int c = 0; c < n; c++) sums[size_t(i) * (n + 3) + c] = 0.25f + (all[size_t(i) * n + c] + bias[c]);
  product.bias = bias.data(), product.add = true;
  report.same(product(0, t, 3, 0.25f), sums, what + ": bias, and added to y");
}

void check_kind(const Kernels& kernels, const StoredKind& stored, int n, int k, Report& report) {
  Random random(uint64_t(n) * 1000 + k);
  const int t = 19;
  Pool pool(1);
  const Matrix matrix(stored.name, random_rows(stored, n, k, random).data(), n, k, kernels.lanes, pool);
  const Floats x = activations(t, k, random);
  const std::string what = std::string(stored.name) + " " + std::to_string(n) + " x " + std::to_string(k);
  Product product{kernels, matrix};
  product.x = x.data();
  check_product(product, Doubles(x.begin(), x.end()), t, what + " floats", report);
  if (!is_quantised(matrix.format())) return;
  Int8Rows rows(t, k);
  Doubles seen(x.size());
  for (int i = 0; i < t; i++) kernels.quantise(&x[size_t(i) * k], k, rows.view().row(i, k));
  for (size_t i = 0; i < seen.size(); i++) seen[i] = double(rows.codes[i]) * double(rows.scales[i / kGroup]);
  product.x = nullptr, product.codes = rows.view();
  check_product(product, seen, t, what + " int8", report);
}

// Codes of one group, the rest of the row zero; scales 1, and what the kernels expect beside.
Int8Rows one_group(int t, int k, int group, Random& random) {
  Int8Rows rows(t, k);
  for (int i = 0; i < t; i++)
    for (int j = 0; j < kGroup; j++) {
      const int code = i % 4 == 0 ? int(random.bits() % 255) - 127 : i % 4 == 1 ? 127 : i % 4 == 2 ? -127 : (j % 2 ? 127 : -127);
      const size_t at = size_t(i) * (k / kGroup) + group;
      rows.codes[size_t(i) * k + group * kGroup + j] = int8_t(code);
      rows.halves[2 * at + j / 16] = int16_t(rows.halves[2 * at + j / 16] + code);
      rows.minus[at] -= code;
    }
  std::fill(rows.scales.begin(), rows.scales.end(), 1.0f);
  for (size_t i = 0; i < rows.sums.size(); i++) rows.sums[i] = float(-rows.minus[i]);
  return rows;
}

// With scales of 1 and no minima a group's product is an integer: the very one.
void check_integers(const Kernels& kernels, const StoredKind& stored, Bytes bytes, Report& report) {
  constexpr int n = 19, t = 15, k = 256;
  Random random(int(bytes) + 1);
  const Kind& kind = *find_kind(stored.name, k);
  std::vector<uint8_t> data(size_t(n) * k / layout(kind.format).block * kind.bytes);
  for (size_t at = 0; at < data.size(); at += kind.bytes) {
    fill_block(stored, kind.bytes, bytes, 1, 0, random, &data[at]);
    if (kind.format == Format::w4f) data[at] = 128;  // doubled values: integers
  }
  Pool pool(1);
  const Matrix matrix(stored.name, data.data(), n, k, kernels.lanes, pool);
  for (int group = 0; group < k / kGroup; group++) {
    Int8Rows rows = one_group(t, k, group, random);
    Product product{kernels, matrix};
    product.codes = rows.view();
    const Doubles want = reference(matrix, Doubles(rows.codes.begin(), rows.codes.end()), t);
    report.same(product(0, t), Floats(want.begin(), want.end()), std::string(stored.name) + ": integers of a group");
  }
}

}  // namespace

void check_linear(const Kernels& kernels, Report& report) {
  for (const StoredKind& stored : kStored) {
    const bool quantised = is_quantised(find_kind(stored.name, 256)->format);
    const int block = layout(find_kind(stored.name, 256)->format).block;
    check_kind(kernels, stored, 75, block > 1 ? 512 : 257, report);
    check_kind(kernels, stored, 1, block > 1 ? block : 5, report);
    check_kind(kernels, stored, kernels.lanes * 4, block > 128 ? block : block > 1 ? pad(160, block) : 130, report);
    if (quantised)
      for (Bytes bytes : {Bytes::random, Bytes::zeros, Bytes::ones}) check_integers(kernels, stored, bytes, report);
  }
}

}  // namespace radixmill
