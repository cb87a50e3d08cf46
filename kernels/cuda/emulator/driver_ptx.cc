// The driver for tests reads PTX: not the instructions, but all that a launch relies on.
#include <sstream>

#include "driver_state.h"

namespace driver {
namespace {

// next gives the words of PTX text, without comments, cut at blanks and at every ( ) { } [ ] , ; on its own.
class words {
 public:
  explicit words(const char* text) : s(text) {}

  bool next(std::string& word) {
    word.clear();
    for (;; s++) {
      if (s[0] == '/' && s[1] == '/') {
        while (*s && *s != '\n') s++;
      }
      if (!*s || !isspace(static_cast<unsigned char>(*s))) break;
    }
    while (*s && !isspace(static_cast<unsigned char>(*s))) {
      const bool mark = strchr("(){}[],;", *s) != nullptr;
      if (mark && !word.empty()) break;
      word += *s++;
      if (mark) break;
    }
    return !word.empty();
  }

 private:
  const char* s;
};

// bits of a type such as .u64 or .f32
unsigned short bytes_of(const std::string& type) {
  size_t digits = 0;
  while (digits < type.size() && !isdigit(static_cast<unsigned char>(type[digits]))) digits++;
  return static_cast<unsigned short>(atoi(type.c_str() + digits) / 8);
}

const emulated_kernel* find(const std::string& name) {
  int n = 0;
  const emulated_kernel* all = emulated_kernels(&n);
  for (int i = 0; i < n; i++) {
    if (name == all[i].name) return &all[i];
  }
  return nullptr;
}

// parameters reads up to the closing parenthesis.
std::vector<unsigned short> parameters(words& w) {
  std::vector<unsigned short> sizes;
  std::string word;
  while (w.next(word) && word != ")") {
    if (word != ".param") continue;
    w.next(word);
    if (word == ".align") {  // .param .align 8 .b8 name[16]
      for (int skip = 0; skip < 4; skip++) w.next(word);
      w.next(word);
      sizes.push_back(static_cast<unsigned short>(atoi(word.c_str())));
      continue;
    }
    sizes.push_back(bytes_of(word));
  }
  return sizes;
}

CUresult compare(const std::string& name, const std::vector<unsigned short>& sizes, const emulated_kernel* k) {
  if (!k) return refuse(CUDA_ERROR_INVALID_PTX, "kernel %s of the PTX is not among the host's", name.c_str());
  if (sizes.size() != static_cast<size_t>(k->params)) {
    return refuse(CUDA_ERROR_INVALID_PTX, "kernel %s has %zu parameters in the PTX and %d on the host: run make gen", name.c_str(),
                  sizes.size(), k->params);
  }
  for (size_t i = 0; i < sizes.size(); i++) {
    if (sizes[i] != k->sizes[i]) {
      return refuse(CUDA_ERROR_INVALID_PTX, "parameter %zu of kernel %s has %d bytes in the PTX and %d on the host: run make gen", i,
                    name.c_str(), sizes[i], k->sizes[i]);
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult entries(const char* text, int capability, std::map<std::string, CUfunc_st>& functions) {
  words w(text);
  std::string word;
  bool version = false, target = false;
  std::string kernel;  // the last entry: what follows its parameters is about it
  while (w.next(word)) {
    if (word == ".version") {
      version = true;
    } else if (word == ".target") {
      target = w.next(word) && word.compare(0, 3, "sm_") == 0;
      const int least = target ? atoi(word.c_str() + 3) : 0;
      if (least > capability || (word.back() == 'a' && least != capability)) {
        return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "PTX for %s, and the GPU is an sm_%d", word.c_str(), capability);
      }
    } else if (word == ".entry") {
      w.next(kernel);
      w.next(word);  // (
      const emulated_kernel* k = find(kernel);
      if (CUresult bad = compare(kernel, parameters(w), k)) return bad;
      functions[kernel].kernel = k;
    } else if (word == ".maxntid" && !kernel.empty()) {
      w.next(word);
      if (static_cast<unsigned>(atoi(word.c_str())) != functions[kernel].kernel->threads) {
        return refuse(CUDA_ERROR_INVALID_PTX, "kernel %s has blocks of up to %s threads in the PTX and of %u on the host: run make gen",
                      kernel.c_str(), word.c_str(), functions[kernel].kernel->threads);
      }
    }
  }
  if (!version || !target) return refuse(CUDA_ERROR_INVALID_PTX, "no .version or no .target: this is not PTX");
  return CUDA_SUCCESS;
}

}  // namespace driver
