// `idistill_mpi select` on results made by hand, sound and damaged.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>

#include "error_of.hpp"
#include "idistill/io/result_file.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/settings.hpp"
#include "pipeline.hpp"
#include "program_options.hpp"
#include "shared_folder.hpp"

using namespace idistill;
using options::Values;
using selection::BudgetSettings, selection::SelectionSettings, selection::WeightedSettings;
using namespace idistill::test;

namespace {

/// Six samples of two sources, a column for each of two tasks; the best of the first column is quarantined.
struct Stored {
    std::vector<float> influence{0.1F, 0.9F, 0.8F, 0.2F, 0.7F, 0.8F, 0.9F, 0.1F, 0.2F, 0.3F, 0.0F, 0.0F};
    std::int64_t columns = 2;
    bool in_double = false;
    std::vector<std::string> ids{"id 0", "first", "id 2", "id 3", "id 4", "id 5"};
    std::vector<std::int32_t> tokens{10, 20, 30, 40, 50, 60};
    std::vector<std::int32_t> source{0, 1, 0, 1, 0, 1};
    std::vector<std::string> source_names{"code", "maths"};
    std::vector<std::int32_t> column_task{0, 1};
    std::vector<std::string> task_names{"one", "two"};
    std::vector<std::int64_t> quarantined{3};
    bool has_quarantine = true;
    std::string settings = R"({"columns": "tasks"})";

    void write(const std::string& path) const {
        io::ResultWriter writer(world(), path);
        if (in_double)
            writer.small<double>("/influence", std::vector<double>(influence.begin(), influence.end()), columns);
        else
            writer.small<float>("/influence", influence, columns);
        writer.strings("/id", ids);
        writer.small<std::int32_t>("/tokens", tokens);
        writer.small<std::int32_t>("/source/index", source);
        writer.strings("/source/name", source_names);
        writer.small<std::int32_t>("/column/task", column_task);
        writer.strings("/task/name", task_names);
        writer.attribute("settings", settings);
        if (has_quarantine) writer.small<std::int64_t>("/quarantine/index", quarantined);
        writer.commit();
    }
};

Values values_for(const std::string& result, const std::string& out) {
    Values values;
    values.command = options::Command::select;
    values.of<options::InputSettings>().result = result;
    values.of<options::InputSettings>().out = out;
    values.of<BudgetSettings>().percent = 50.0;
    return values;
}

void select_again(const Values& values) { run(program_options(), values, world(), "a test"); }

}  // namespace

BOOST_AUTO_TEST_SUITE(select_again_from_a_result)

BOOST_AUTO_TEST_CASE(a_selection_is_written_beside_what_was_there) {
    const SharedFolder folder;
    Stored().write(folder / "result.h5");
    select_again(values_for(folder / "result.h5", folder / "again.h5"));
    const io::ResultReader again(folder / "again.h5");
    BOOST_TEST((again.read<std::int64_t>("/selected/index") == std::vector<std::int64_t>{1, 0, 2}));
    BOOST_TEST((again.read<std::int32_t>("/selected/column") == std::vector<std::int32_t>{0, 1, 0}));
    BOOST_TEST((again.read_strings("/selected/id") == std::vector<std::string>{"first", "id 0", "id 2"}));
    BOOST_TEST((again.read<float>("/weight") == std::vector<float>{2, 2, 2, 0, 0, 0}));
    BOOST_TEST((again.read<float>("/influence") == Stored().influence));
    BOOST_TEST(again.attribute("selected_tokens") == "60");
    world().barrier();
}

// In results of the version before, "influence" is what is "order" now.
BOOST_AUTO_TEST_CASE(the_influence_that_a_result_was_made_with_is_known) {
    const SharedFolder folder;
    Stored stored;
    const auto chosen = [&](const std::string& name, const std::string& settings) {
        stored.settings = settings;
        stored.write(folder / name);
        return error_of([&] { select_again(values_for(folder / name, folder / ("again " + name))); });
    };
    BOOST_TEST(!chosen("before.h5", R"({"columns": "tasks", "influence": "second-order"})").has_value());
    BOOST_TEST(!chosen("now.h5", R"({"columns": "tasks", "order": "auto", "influence": "gradient"})").has_value());
    const auto error = chosen("strange.h5", R"({"columns": "tasks", "order": "auto", "influence": "magic"})");
    BOOST_TEST_REQUIRE(error.has_value());
    BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::bad_input));
    BOOST_TEST(error->failure().field == "attribute settings");
    world().barrier();
}

BOOST_AUTO_TEST_CASE(caps_name_sources_of_the_result) {
    const SharedFolder folder;
    Stored().write(folder / "result.h5");
    auto values = values_for(folder / "result.h5", folder / "again.h5");
    auto& budget = values.of<BudgetSettings>();
    budget.percent.reset();
    budget.samples = 2;
    budget.source_cap = {{"code", 0}};
    select_again(values);
    const io::ResultReader again(folder / "again.h5");
    BOOST_TEST((again.read<std::int64_t>("/selected/index") == std::vector<std::int64_t>{1, 5}));
    world().barrier();

    values.of<options::InputSettings>().out = folder / "none.h5";
    budget.source_cap = {{"codes", 0}};
    const auto error = error_of([&] { select_again(values); });
    BOOST_TEST_REQUIRE(error.has_value());
    BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::usage));
    BOOST_TEST(error->failure().where == "--source-cap");
    world().barrier();
}

// Means over the columns: 0.5, 0.5, 0.75, quarantined, 0.25, 0; above the fourth best they are 0.25, 0.25 and 0.5.
BOOST_AUTO_TEST_CASE(weights_are_optimal_and_leave_nothing_behind) {
    const SharedFolder folder;
    Stored().write(folder / "result.h5");
    auto values = values_for(folder / "result.h5", folder / "weighted.h5");
    values.of<SelectionSettings>().member = "weighted";
    select_again(values);
    {
        const io::ResultReader weighted(folder / "weighted.h5");
        auto rows = weighted.read<std::int64_t>("/selected/index");
        BOOST_TEST(rows.front() == 2);  // the means of 0 and 1 are equal but for rounding
        std::sort(rows.begin(), rows.end());
        BOOST_TEST((rows == std::vector<std::int64_t>{0, 1, 2}));
        BOOST_TEST((weighted.read<std::int32_t>("/selected/column") == std::vector<std::int32_t>{-1, -1, -1}));
        const auto weight = weighted.read<float>("/weight");
        const std::vector<float> expected{1.5F, 1.5F, 3.0F, 0.0F, 0.0F, 0.0F};
        for (std::size_t i = 0; i < expected.size(); ++i) BOOST_TEST(std::abs(weight[i] - expected[i]) < 1e-5F);
        BOOST_TEST(std::abs(weighted.read<float>("/selected/weight").front() - 1.5F) < 1e-5F);
        BOOST_TEST(weighted.attribute("weights_support") == "3");
        BOOST_TEST(weighted.attribute("weights_clipped") == "0");
    }
    world().barrier();
    select_again(values_for(folder / "weighted.h5", folder / "again.h5"));
    const io::ResultReader again(folder / "again.h5");
    BOOST_TEST((again.read<float>("/weight") == std::vector<float>{2, 2, 2, 0, 0, 0}));
    BOOST_TEST(error_of([&] { (void)again.attribute("weights_support"); }).has_value());
    world().barrier();
}

// The same influences, but no weight over 2.5, and at most a quarter of all weight, 1.5, for rows 1, 3 and 5.
BOOST_AUTO_TEST_CASE(weights_keep_their_limits) {
    const SharedFolder folder;
    Stored().write(folder / "result.h5");
    auto values = values_for(folder / "result.h5", folder / "limited.h5");
    values.of<SelectionSettings>().member = "weighted";
    auto& weighted = values.of<WeightedSettings>();
    weighted.lambda = 0.01;
    weighted.max_weight = 2.5;
    weighted.source_share = {{"maths", 0.25}};
    select_again(values);
    {
        const io::ResultReader limited(folder / "limited.h5");
        const auto weight = limited.read<float>("/weight");
        const std::vector<float> expected{2.0F, 1.5F, 2.5F, 0.0F, 0.0F, 0.0F};  // row 4 is far below row 0
        for (std::size_t i = 0; i < expected.size(); ++i) BOOST_TEST(std::abs(weight[i] - expected[i]) < 1e-5F);
        BOOST_TEST(limited.attribute("weights_at_largest") == "1");
        BOOST_TEST(limited.attribute("weights_full_sources") == "1");
    }
    world().barrier();
    const auto refused = [&](auto change) {
        auto other = values;
        other.of<options::InputSettings>().out = folder / "none.h5";
        change(other);
        const auto error = error_of([&] { select_again(other); });
        world().barrier();
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::usage));
        return error->failure().where;
    };
    const auto with_share = [&](const std::map<std::string, double>& share) {
        return refused([&share](Values& v) { v.of<WeightedSettings>().source_share = share; });
    };
    BOOST_TEST(refused([](Values& v) { v.of<WeightedSettings>().max_weight = 1.0; }) == "--max-weight");
    BOOST_TEST(with_share({{"code", 0.5}, {"maths", 0.25}}) == "--source-share");
    BOOST_TEST(with_share({{"codes", 0.5}}) == "--source-share");
    BOOST_TEST(refused([](Values& v) {
                   v.of<WeightedSettings>().lambda.reset();
                   v.of<BudgetSettings>().percent = 33.0;
               }) == "--select");
}

BOOST_AUTO_TEST_CASE(second_order_needs_what_columns_are) {
    const SharedFolder folder;
    auto values = values_for("", folder / "again.h5");
    values.of<SelectionSettings>().member = "weighted";
    values.of<WeightedSettings>().order = selection::Order::second;
    values.of<WeightedSettings>().learning_rate = 0.1;
    const auto refused_field = [&](const std::string& name, const std::string& run, std::vector<std::int32_t> tokens,
                                   std::vector<float> norms) {
        const auto result = folder / name;
        values.of<options::InputSettings>().result = result;
        const Stored stored;
        stored.write(result);
        {
            io::ResultWriter writer(world(), result, result);
            writer.attribute("settings", run);
            writer.small<std::int32_t>("/column/label_tokens", tokens);
            writer.small<float>("/column/gradient_norm", norms);
            writer.commit();
        }
        const auto error = error_of([&] { select_again(values); });
        world().barrier();
        return error ? error->failure().field : std::string("none");
    };
    const std::string sound = R"({"columns": "samples", "normalize": "cosine"})";
    BOOST_TEST(refused_field("a.h5", "no JSON", {1, 2}, {1, 2}) == "attribute settings");
    BOOST_TEST(refused_field("b.h5", R"({"columns": "tasks"})", {1, 2}, {1, 2}) == "attribute settings");
    BOOST_TEST(refused_field("c.h5", sound, {1}, {1, 2}) == "/column/label_tokens");
    BOOST_TEST(refused_field("d.h5", sound, {1, -2}, {1, 2}) == "/column/label_tokens");
    BOOST_TEST(refused_field("e.h5", sound, {1, 2}, {1, 0}) == "/column/gradient_norm");
    BOOST_TEST(refused_field("f.h5", sound, {1, 2}, {1, 2}) == "none");
}

BOOST_AUTO_TEST_CASE(nothing_in_a_result_is_trusted) {
    struct Damage {
        std::string dataset;
        std::function<void(Stored&)> damage;
        std::string found;
    };
    const std::vector<Damage> damages{
        {"/influence", [](Stored& s) { s.columns = 0; }, "1"},
        {"/influence", [](Stored& s) { s.in_double = true; }, "float64"},
        {"/influence", [](Stored& s) { s.influence.clear(); }, "0 x 2"},
        {"/id", [](Stored& s) { s.ids.pop_back(); }, "5 values"},
        {"/tokens", [](Stored& s) { s.tokens.push_back(1); }, "7 values"},
        {"/tokens", [](Stored& s) { s.tokens[4] = -1; }, "-1 at place 4"},
        {"/source/index", [](Stored& s) { s.source.clear(); }, "0 values"},
        {"/source/index", [](Stored& s) { s.source[5] = 2; }, "2 at place 5"},
        {"/source/index", [](Stored& s) { s.source_names.clear(); }, "0 at place 0"},
        {"/column/task", [](Stored& s) { s.column_task.push_back(0); }, "3 values"},
        {"/column/task", [](Stored& s) { s.column_task[1] = 2; }, "2 at place 1"},
        {"/column/task", [](Stored& s) { s.column_task[1] = 0; }, "none of task 1"},
        {"/quarantine/index",
         [](Stored& s) {
             s.quarantined = {0, 6};
         },
         "6 at place 1"},
        {"/quarantine/index", [](Stored& s) { s.quarantined = {-1}; }, "-1 at place 0"},
        {"/quarantine/index", [](Stored& s) { s.has_quarantine = false; }, "nothing"},
    };
    const SharedFolder folder;
    for (std::size_t i = 0; i < damages.size(); ++i) {
        const std::string path = folder / ("result" + std::to_string(i) + ".h5");
        Stored stored;
        damages[i].damage(stored);
        stored.write(path);
        const auto error = error_of([&] { select_again(values_for(path, folder / "again.h5")); });
        BOOST_TEST_REQUIRE(error.has_value(), damages[i].dataset << ", " << damages[i].found);
        BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::bad_input));
        BOOST_TEST(error->failure().where == path);
        BOOST_TEST(error->failure().field == damages[i].dataset);
        BOOST_TEST(error->failure().found == damages[i].found);
        BOOST_TEST(!error->failure().remedy.empty());
        world().barrier();
    }
    BOOST_TEST(!std::filesystem::exists(folder / "again.h5"));
    world().barrier();
}

BOOST_AUTO_TEST_SUITE_END()
