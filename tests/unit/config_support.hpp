#pragma once
// Small models, corpora and files for the tests of the module config.

#include <stdlib.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "idistill/config/plan.hpp"
#include "idistill/report/error.hpp"

namespace config_test {

using namespace idistill;
using namespace idistill::config;

/// A directory that is gone after the test.
class Folder {
public:
    Folder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "idistill_config_XXXXXX").string();
        BOOST_REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    [[nodiscard]] std::string path() const { return path_; }
    /// Writes a file, below folders that it makes, and returns its path.
    [[nodiscard]] std::string file(const std::string& name, const std::string& content) const {
        const std::string path = path_ + "/" + name;
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        std::ofstream(path) << content;
        return path;
    }

private:
    std::string path_;
};

/// The Failure that `action` throws, with its code; the test fails if it throws none.
template <class Action>
Failure failure_of(ExitCode code, Action action) {
    try {
        action();
    } catch (const Error& error) {
        BOOST_TEST(static_cast<int>(error.code()) == static_cast<int>(code), error.what());
        return error.failure();
    }
    BOOST_ERROR("nothing was thrown");
    return {};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

using Words = std::vector<std::string>;

inline Settings parsed(const Words& words) {
    std::string text;
    const auto settings = parse(words, text, "1.2");
    BOOST_REQUIRE(settings.has_value());
    BOOST_TEST(text.empty());
    return *settings;
}

inline const Words needed{"--model", "dir", "--pool", "pool.h5", "--target", "t=t.h5", "--out", "out.h5"};

inline Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

inline Settings run(const Words& more) { return parsed(with(needed, more)); }
inline Failure refused(const Words& words) {
    return failure_of(ExitCode::usage, [&] {
        std::string text;
        parse(words, text, "1.2");
    });
}
inline Failure run_refused(const Words& more) { return refused(with(needed, more)); }

/// The needed words without those of one option.
inline Words needed_without(const std::string& name) {
    Words words;
    for (std::size_t i = 0; i < needed.size(); i += 2) {
        if (needed[i] != "--" + name) words.insert(words.end(), {needed[i], needed[i + 1]});
    }
    return words;
}

/// hidden 4, intermediate 6, three blocks, two heads of 2 with one key head, vocabulary 10.
inline ModelConfig tiny_model() {
    ModelConfig model;
    model.family = "llama";
    model.vocabulary = 10;
    model.hidden = 4;
    model.intermediate = 6;
    model.blocks = 3;
    model.heads = 2;
    model.kv_heads = 1;
    model.head_dim = 2;
    model.max_positions = 64;
    return model;
}

/// Settings that fit tiny_model() and small corpora.
inline Settings tiny_settings() {
    Settings settings;
    settings.model = "m";
    settings.pool = {"pool.h5"};
    settings.targets = {{"a", "a.h5"}, {"b", "b.h5"}};
    settings.out = "out.h5";
    settings.select_percent = 5.0;
    settings.landmarks = 2;
    settings.contrast = 0;
    settings.jvp_blocks = 2;
    settings.sketch_dim = 12;
    return settings;
}

struct Sample {
    std::int32_t tokens = 0;
    std::int32_t labels = 0;  ///< the last of the tokens
    std::int32_t source = 0;
};

inline data::CorpusIndex corpus(const std::vector<Sample>& samples) {
    data::CorpusIndex index;
    for (const auto& sample : samples) {
        index.tokens.push_back(sample.tokens);
        index.labels.push_back(sample.labels);
        index.last_label.push_back(sample.labels > 0 ? sample.tokens - 1 : -1);
        index.source.push_back(sample.source);
    }
    index.source_names = {"code", "maths"};
    index.longest_id = 32;
    return index;
}

}  // namespace config_test
