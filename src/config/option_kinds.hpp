#pragma once
// The kinds of options: how a value is read, checked and shown.

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"

namespace idistill::config {

struct Meta {
    std::string name, group, value_name, help;
};

/// An option without apply and show.
Option made(const Meta& meta);

Option text_option(const Meta& meta, std::string Settings::*member);

template <class T>
Option number_option(const Meta& meta, T Settings::*member, T low, T high) {
    Option option = made(meta);
    option.apply = [member, low, high](Settings& settings, const Given& given) {
        settings.*member = number_within<T>(given, single(given), low, high);
    };
    option.show = [member](const Settings& s) { return nlohmann::json(s.*member); };
    return option;
}

/// `remedies`: what to say about a value that other builds or versions know.
Option choice_option(const Meta& meta, std::string Settings::*member, const std::vector<std::string>& choices,
                     const std::map<std::string, std::string>& remedies = {});

/// on | off; in a settings file also true | false.
Option switch_option(const Meta& meta, bool Settings::*member);

using Show = std::function<nlohmann::json(const Settings&)>;
/// Of the word or the number, what was given.
using SetWordOrNumber = std::function<void(Settings&, const std::string& word, std::optional<double> number)>;
struct Numbers {
    std::string text;                  ///< which ones, for people
    std::function<bool(double)> fits;  ///< of finite ones
};

/// One of the words, or a number.
Option word_or_number_option(const Meta& meta, const std::vector<std::string>& words, const Numbers& numbers,
                             const SetWordOrNumber& set, const Show& show);

/// "auto", where the member holds nothing, or a number above 0.
Option auto_or_number_option(const Meta& meta, std::optional<double> Settings::*member);

/// A number that has no default.
Option optional_option(const Meta& meta, std::optional<double> Settings::*member, double low, double high);

// Options of a kind of their own.
Option pool_option(const std::string& group);
Option target_option(const std::string& group);
Option landmarks_option(const std::string& group);
Option embedding_option(const std::string& group);
Option embedding_of_embed_option(const std::string& group);
Option bandwidth_option(const std::string& group);
Option refine_option(const std::string& group);
Option select_option(const std::string& group);
Option select_tokens_option(const std::string& group);
Option source_cap_option(const std::string& group);
Option max_weight_option(const std::string& group);
Option source_share_option(const std::string& group);

}  // namespace idistill::config
