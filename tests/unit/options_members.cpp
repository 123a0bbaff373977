// What the settings of members come to: embeddings by name, and budgets and limits in a pool.

#include "idistill/embedding/parts.hpp"
#include "idistill/selection/budget.hpp"
#include "options_support.hpp"

using namespace options_test;

namespace {

EmbeddingSettings named(const std::string& text) {
    EmbeddingSettings settings;
    settings.embedding = text;
    return settings;
}

/// The combinations that a run may use, their parts joined by +.
Words candidates(const std::string& text) {
    Words joined;
    const auto parts = embedding_names(named(text));
    for (const auto& candidate : embedding_candidates(named(text))) {
        auto& name = joined.emplace_back();
        for (const auto part : candidate) name += (name.empty() ? "" : "+") + parts[part];
    }
    return joined;
}

template <class Action>
Failure failure_of(Action action) {
    try {
        action();
    } catch (const Error& error) {
        return error.failure();
    }
    BOOST_ERROR("nothing was thrown");
    return {};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(options_members)

BOOST_AUTO_TEST_CASE(embeddings_have_names) {
    BOOST_TEST((embedding_names(named("auto+gradient-tail:12+dir/a.h5")) ==
                Words{"jvp", "hidden", "gradient-tail:12", "dir/a.h5"}));
    const auto form = [](const std::string& text) {
        const auto* member = embedding::member_named(text);
        return member == nullptr ? std::string() : member->form;
    };
    BOOST_TEST((form("jvp") == "jvp" && form("hidden") == "hidden" && form("gradient") == "gradient"));
    BOOST_TEST((form("gradient-tail:12") == "gradient-tail:M" && form("dir/a.h5") == form("x.hdf5")));
    BOOST_TEST(embedding::member_named("x.hdf5")->of_file);
    for (const char* text :
         {"", "auto", "gradient-tail:", "gradient-tail:0", "gradient-tail:1x", "file.txt", "jvp+hidden"})
        BOOST_TEST(form(text) == "", text);
    using embedding::Member;
    BOOST_TEST((any_embedding(named("auto"), &Member::of_blocks) && !any_embedding(named("a.h5"), &Member::of_blocks)));
    BOOST_TEST((any_embedding(named("jvp+gradient-tail:1"), &Member::of_gradients) &&
                !any_embedding(named("jvp"), &Member::of_gradients)));
    BOOST_TEST(
        (any_embedding(named("auto+a.h5"), &Member::of_file) && !any_embedding(named("auto"), &Member::of_file)));
    BOOST_TEST(failure_of([] { embedding_names(named("jvp+jpv")); }).found == "'jpv'");
    BOOST_TEST((embedding::joined_parts("a++b") == Words{"a", "", "b"}));
}

BOOST_AUTO_TEST_CASE(auto_compares_few_embeddings_before_many) {
    BOOST_TEST((candidates("jvp+hidden") == Words{"jvp+hidden"}));
    BOOST_TEST((candidates("auto") == Words{"jvp", "hidden", "jvp+hidden"}));
    BOOST_TEST((candidates("auto+a.h5") ==
                Words{"jvp", "hidden", "a.h5", "jvp+hidden", "jvp+a.h5", "hidden+a.h5", "jvp+hidden+a.h5"}));
    BOOST_TEST((candidates("hidden+jvp") == Words{"hidden+jvp"}));
    const auto three = candidates("auto+gradient-tail:1");
    BOOST_TEST((three.size() == 7U && three[2] == "gradient-tail:1" && three[6] == "jvp+hidden+gradient-tail:1"));
}

BOOST_AUTO_TEST_CASE(budgets_and_limits_in_a_pool) {
    using selection::selected_count;
    BOOST_TEST((selected_count(5.0, 1000) == 50 && selected_count(100.0, 7) == 7));
    BOOST_TEST((selected_count(62.5, 4) == 3 && selected_count(62.4, 4) == 2));  // 2.5 and 2.496
    BOOST_TEST((selected_count(0.7, 1000) == 7 && selected_count(0.001, 10) == 1));
    const Words sources{"code", "maths"};
    BudgetSettings budget;
    budget.source_cap = {{"maths", 5}};
    BOOST_TEST((source_caps(budget, sources) == std::map<std::int32_t, std::int64_t>{{1, 5}}));
    budget.source_cap = {{"math", 5}};
    const auto near = failure_of([&] { source_caps(budget, sources); });
    BOOST_TEST((near.where == "--source-cap" && near.found == "'math'" && near.remedy == "Did you mean maths?"));
    const auto shares = [](const char* source, const Words& of_pool) {
        return selection::by_source("--source-share", std::map<std::string, double>{{source, 0.25}}, of_pool);
    };
    BOOST_TEST((shares("code", sources) == std::map<std::int32_t, double>{{0, 0.25}}));
    const auto far = failure_of([&] { shares("stories", sources); });
    BOOST_TEST((far.where == "--source-share" && far.remedy == "The pool has code, maths."));
    BOOST_TEST(contains(failure_of([&] { shares("stories", Words(14, "s")); }).remedy, "and 2 more"));
}

BOOST_AUTO_TEST_SUITE_END()
