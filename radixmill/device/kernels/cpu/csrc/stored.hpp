// What files hold: the kinds that stay packed, and a reader for the blocks of each.
#pragma once
#include <string>

#include "formats.hpp"

namespace radixmill {

// One row's values under one scale, as numbers; see formats.hpp for what they mean.
struct Block {
  uint16_t scale = 0, minimum = 0;  // f16
  int8_t factors[16], low_factors[16];  // [group][factors per group]
  uint8_t codes[256];  // in the order of K
};

struct Kind {
  const char* name;
  Format format;
  size_t bytes;  // of the layout(format).block values that lie together
  void (*read)(const uint8_t* stored, Block& out);  // null for floats
};

// The kind of that name; null: no compute format takes it, or not with rows of k.
const Kind* find_kind(const std::string& name, int k);

}  // namespace radixmill
