#include "stored.hpp"

#include <cstring>

namespace radixmill {

namespace {

uint16_t half_at(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return h;
}

uint16_t negative(uint16_t half) { return half ^ 0x8000; }

// The field of `mask` at `shift` in each of n bytes.
template <int n, int shift, int mask>
void fields(const uint8_t* p, uint8_t* out) {
  for (int i = 0; i < n; i++) out[i] = uint8_t((p[i] >> shift) & mask);
}
// The same, set at bit `at` of what is there.
template <int n, int at>
void add_fields(const uint8_t* p, int shift, int mask, uint8_t* out) {
  for (int i = 0; i < n; i++) out[i] = uint8_t(out[i] | ((p[i] >> shift) & mask) << at);
}

// Two rows of n nibbles: the low ones, then the high ones.
template <int n>
void nibbles(const uint8_t* p, uint8_t* out) {
  fields<n, 0, 15>(p, out);
  fields<n, 4, 15>(p, out + n);
}

void q4_0(const uint8_t* p, Block& b) {
  b.scale = half_at(p);
  nibbles<16>(p + 2, b.codes);
}

void q4_1(const uint8_t* p, Block& b) {
  b.scale = half_at(p), b.minimum = half_at(p + 2);
  nibbles<16>(p + 4, b.codes);
}

// Bit i of the word at p is bit 4 of code i. A multiplication copies four bits to the lowest bits of four bytes.
void fifth_bits(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < 32; i += 4) {
    const uint32_t four = uint32_t(p[i / 8]) >> (i % 8) & 15, spread = four * 0x00204081u & 0x01010101u;
    uint32_t word;
    memcpy(&word, codes + i, 4);
    word |= spread << 4;
    memcpy(codes + i, &word, 4);
  }
}

void q5_0(const uint8_t* p, Block& b) {
  b.scale = half_at(p);
  nibbles<16>(p + 6, b.codes);
  fifth_bits(p + 2, b.codes);
}

void q5_1(const uint8_t* p, Block& b) {
  b.scale = half_at(p), b.minimum = half_at(p + 2);
  nibbles<16>(p + 8, b.codes);
  fifth_bits(p + 4, b.codes);
}

void q8_0(const uint8_t* p, Block& b) {
  b.scale = half_at(p);
  memcpy(b.codes, p + 2, 32);
}

// d, dmin and 12 bytes with eight scales and eight minima of 6 bits: value = d · scale · code − dmin · minimum.
void k_scales(const uint8_t* p, Block& b) {
  b.scale = half_at(p), b.minimum = negative(half_at(p + 2));
  const uint8_t* s = p + 4;
  for (int i = 0; i < 4; i++) {
    b.factors[i] = int8_t(s[i] & 63), b.low_factors[i] = int8_t(s[4 + i] & 63);
    b.factors[4 + i] = int8_t((s[8 + i] & 15) | (s[i] >> 6 << 4));
    b.low_factors[4 + i] = int8_t((s[8 + i] >> 4) | (s[4 + i] >> 6 << 4));
  }
}

void q4_k(const uint8_t* p, Block& b) {
  k_scales(p, b);
  for (int i = 0; i < 4; i++) nibbles<32>(p + 16 + 32 * i, b.codes + 64 * i);
}

void q5_k(const uint8_t* p, Block& b) {
  k_scales(p, b);
  for (int i = 0; i < 4; i++) nibbles<32>(p + 48 + 32 * i, b.codes + 64 * i);
  for (int g = 0; g < 8; g++) add_fields<32, 4>(p + 16, g, 1, b.codes + 32 * g);
}

// 16 scales of 8 bits; codes of 4 + 2 bits, less 32.
void q6_k(const uint8_t* p, Block& b) {
  b.scale = half_at(p + 208);
  memcpy(b.factors, p + 192, 16);
  for (int half = 0; half < 2; half++) {
    uint8_t* codes = b.codes + 128 * half;
    nibbles<64>(p + 64 * half, codes);
    for (int part = 0; part < 4; part++) add_fields<32, 4>(p + 128 + 32 * half, 2 * part, 3, codes + 32 * part);
  }
}

// Codes of two bits, as the two smallest kinds have them.
void pairs_of_bits(const uint8_t* p, uint8_t* codes) {
  for (int half = 0; half < 2; half++, p += 32, codes += 128) {
    fields<32, 0, 3>(p, codes);
    fields<32, 2, 3>(p, codes + 32);
    fields<32, 4, 3>(p, codes + 64);
    fields<32, 6, 3>(p, codes + 96);
  }
}

// 16 scales of 6 bits, less 32; codes of 2 + 1 bits, less 4.
void q3_k(const uint8_t* p, Block& b) {
  b.scale = half_at(p + 108);
  const uint8_t* s = p + 96;
  for (int i = 0; i < 16; i++) {
    const int low = s[i % 8] >> (i / 8 * 4) & 15, high = s[8 + i % 4] >> (i / 4 * 2) & 3;
    b.factors[i] = int8_t((low | high << 4) - 32);
  }
  pairs_of_bits(p + 32, b.codes);
  for (int g = 0; g < 8; g++) add_fields<32, 2>(p, g, 1, b.codes + 32 * g);
}

// 16 scales and 16 minima of 4 bits; codes of 2 bits.
void q2_k(const uint8_t* p, Block& b) {
  b.scale = half_at(p + 80), b.minimum = negative(half_at(p + 82));
  for (int i = 0; i < 16; i++) b.factors[i] = int8_t(p[i] & 15), b.low_factors[i] = int8_t(p[i] >> 4);
  pairs_of_bits(p + 16, b.codes);
}

// d, high bits of eight scales, their low nibbles; scales are less 32.
void iq4_xs(const uint8_t* p, Block& b) {
  b.scale = half_at(p);
  const uint16_t high = half_at(p + 2);
  for (int g = 0; g < 8; g++) {
    const int low = p[4 + g / 2] >> (g % 2 * 4) & 15;
    b.factors[g] = int8_t((low | (high >> (2 * g) & 3) << 4) - 32);
    nibbles<16>(p + 8 + 16 * g, b.codes + 32 * g);
  }
}

// The scale is a power of two, 2^(e − 128) over doubled codes, which bf16 holds, if need be as a subnormal.
void mxfp4(const uint8_t* p, Block& b) {
  b.scale = p[0] < 2 ? uint16_t(0x20 << p[0]) : uint16_t((p[0] - 1) << 7);
  nibbles<16>(p + 1, b.codes);
}

constexpr Kind kKinds[] = {
    {"F32", Format::f32, 4, nullptr}, {"F16", Format::f16, 2, nullptr}, {"BF16", Format::bf16, 2, nullptr},
    {"Q4_0", Format::w4s, 18, q4_0},  {"Q4_1", Format::w4, 20, q4_1},   {"Q5_0", Format::w5s, 22, q5_0},
    {"Q5_1", Format::w5, 24, q5_1},   {"Q8_0", Format::w8, 34, q8_0},   {"Q2_K", Format::w2k, 84, q2_k},
    {"Q3_K", Format::w3k, 110, q3_k}, {"Q4_K", Format::w4k, 144, q4_k}, {"Q5_K", Format::w5k, 176, q5_k},
    {"Q6_K", Format::w6k, 210, q6_k}, {"IQ4_NL", Format::w4n, 18, q4_0}, {"IQ4_XS", Format::w4nk, 136, iq4_xs},
    {"MXFP4", Format::w4f, 17, mxfp4}, {"F8B128", Format::f8, 132, nullptr},
};

}  // namespace

const Kind* find_kind(const std::string& name, int k) {
  for (const Kind& kind : kKinds)
    if (name == kind.name) return k % layout(kind.format).block == 0 ? &kind : nullptr;
  return nullptr;
}

}  // namespace radixmill
