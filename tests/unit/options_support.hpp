#pragma once
// Files, words and settings for the tests of the program's options.

#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "failure_of.hpp"
#include "idistill/base/error.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/influence/gradient/settings.hpp"
#include "idistill/influence/settings.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/options/table.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/settings.hpp"
#include "program_options.hpp"
#include "temporary_folder.hpp"

namespace options_test {

using namespace idistill;
using embedding::EmbeddingSettings, embedding::JvpSettings;
using influence::GradientSettings, influence::InfluenceSettings;
using options::Command, options::InputSettings, options::RunSettings, options::Values;
using propagation::KernelRidgeSettings, propagation::NetworkSettings, propagation::PropagationSettings;
using selection::BudgetSettings, selection::SelectionSettings, selection::TopKSettings, selection::WeightedSettings,
    selection::FacilityLocationSettings;

using Folder = test::TemporaryFolder;
using test::contains;

using Words = std::vector<std::string>;

inline Values parsed(const Words& words) {
    std::string text;
    const auto values = parse(program_options(), words, text, "1.2");
    BOOST_REQUIRE(values.has_value());
    BOOST_TEST(text.empty());
    return *values;
}

/// What is printed instead.
inline std::string text_of(const Words& words) {
    std::string text;
    BOOST_TEST(!parse(program_options(), words, text, "1.2").has_value());
    return text;
}

/// The Failure that parsing throws; the test fails if it throws none.
inline Failure refused(const Words& words) {
    try {
        std::string text;
        parse(program_options(), words, text, "1.2");
    } catch (const Error& error) {
        BOOST_TEST(static_cast<int>(error.code()) == static_cast<int>(ExitCode::usage), error.what());
        return error.failure();
    }
    BOOST_ERROR("nothing was thrown");
    return {};
}

inline std::string json_of(const Values& values) { return to_json(program_options(), values); }
inline std::string identity_of(const Values& values) { return identity_json(program_options(), values); }

inline const Words needed{"--model", "dir", "--pool", "pool.h5", "--target", "t=t.h5", "--out", "out.h5"};

inline Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

inline Values run(const Words& more) { return parsed(with(needed, more)); }
inline Failure run_refused(const Words& more) { return refused(with(needed, more)); }

/// The struct that a run of these words has.
template <class Settings>
Settings run_of(const Words& more) {
    const Values values = run(more);
    return values.of<Settings>();
}

/// The needed words without those of one option.
inline Words needed_without(const std::string& name) {
    const bool rates = name == "ratings" || name == "rater";  // samples by themselves
    Words words;
    for (std::size_t i = 0; i < needed.size(); i += 2)
        if (needed[i] != "--" + name && !(rates && needed[i] == "--target"))
            words.insert(words.end(), {needed[i], needed[i + 1]});
    return words;
}

}  // namespace options_test
