#pragma once
// What a tokenizer maps, as one number: token files carry it, so that a pool prepared with another model's tokenizer is
// noticed.

#include <string>

namespace idistill::data {

struct TokenizerFingerprint {
    std::string sha256;  ///< empty where there is none
    std::string reason;  ///< then why, with what to do
};

/// sha256 of the vocabulary, merges and special tokens in DIR/tokenizer.json, whatever the file's layout, as
/// jobs/idistill/token_file.py defines it.
TokenizerFingerprint tokenizer_fingerprint(const std::string& model_directory);

}  // namespace idistill::data
