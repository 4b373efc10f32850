// Which instruction sets this build and this machine share.
#pragma once
#include <string>
#include <vector>

#include "kernels.hpp"

namespace radixmill {

// Their names, the best first; "portable" is always there.
std::vector<std::string> isas();

// Throws std::invalid_argument for a name that isas() does not list.
const Kernels& kernels_for(const std::string& isa);

}  // namespace radixmill
